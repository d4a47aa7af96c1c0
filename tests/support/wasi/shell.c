/* A shell for WASI, as far as the contract of executors needs one: quotes, variables, `;`, pipes,
 * redirections, and the commands below, all in this one program. A pipe is a buffer: what a command
 * prints is collected, and then handed to the next. Called by the name of a command (`true`), it is
 * that command. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

typedef struct { char *data; size_t size, room; } Buffer;

static Buffer in, out;

static void put(Buffer *to, const char *data, size_t size) {
    if (to->size + size > to->room) {
        to->room = (to->size + size) * 2;
        to->data = realloc(to->data, to->room);
    }
    memcpy(to->data + to->size, data, size);
    to->size += size;
}

static void say(const char *text) { put(&out, text, strlen(text)); }

static int fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    return 1;
}

static int flush(int fd) {
    for (size_t at = 0; at < out.size;) {
        ssize_t wrote = write(fd, out.data + at, out.size - at);
        if (wrote < 0) return fail("write");
        at += wrote;
    }
    out.size = 0;
    return 0;
}

static int each(char **paths, int (*call)(const char *)) {
    int status = 0;
    for (; *paths; paths++)
        if (call(*paths)) status = fail(*paths);
    return status;
}

static int slurp(int fd, long most) {
    char chunk[65536];
    ssize_t got;
    while (most > 0 && (got = read(fd, chunk, most < 65536 ? most : 65536)) > 0) {
        put(&out, chunk, got);
        most -= got;
    }
    return 0;
}

static int read_file(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) return -1;
    slurp(fd, LONG_MAX);
    close(fd);
    return 0;
}

static int cat(char **argv) {
    if (argv[1]) return each(argv + 1, read_file);
    put(&out, in.data, in.size);
    return slurp(0, LONG_MAX);
}

static int echo(char **argv) {
    for (int i = 1; argv[i]; i++) {
        if (i > 1) say(" ");
        say(argv[i]);
    }
    say("\n");
    return 0;
}

static int make_directory(const char *path) { return mkdir(path, 0755); }

static int make_parents(const char *path) {
    char *copy = strdup(path);
    for (char *at = copy + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            mkdir(copy, 0755);
            *at = '/';
        }
    return mkdir(copy, 0755) && errno != EEXIST;
}

static int touch(const char *path) {
    int fd = open(path, O_CREAT | O_WRONLY, 0644);
    return fd < 0 ? -1 : close(fd);
}

static int copy(char **argv) {
    if (read_file(argv[1])) return fail(argv[1]);
    int fd = open(argv[2], O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (fd < 0) return fail(argv[2]);
    return flush(fd) || close(fd);
}

static int head(char **argv) { /* -c N FILE */
    long size = atol(argv[2]);
    if (!strcmp(argv[3], "/dev/zero")) {
        char zeros[4096] = {0};
        for (; size > 0; size -= 4096) put(&out, zeros, size < 4096 ? size : 4096);
        return 0;
    }
    int fd = open(argv[3], O_RDONLY);
    return fd < 0 ? fail(argv[3]) : slurp(fd, size);
}

static int count(char **argv) { /* -c or -l */
    long lines = 0;
    for (size_t i = 0; i < in.size; i++) lines += in.data[i] == '\n';
    char text[32];
    snprintf(text, sizeof text, "%ld\n", argv[1][1] == 'c' ? (long)in.size : lines);
    say(text);
    return 0;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }

static char **names(const char *path, int *found) {
    char **list = NULL;
    DIR *directory = opendir(path);
    if (!directory) return NULL;
    *found = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        list = realloc(list, (*found + 1) * sizeof *list);
        list[(*found)++] = strdup(entry->d_name);
    }
    closedir(directory);
    if (list) qsort(list, *found, sizeof *list, by_text);
    return list;
}

static void find(const char *path, int depth, int least) {
    int found = 0;
    if (depth >= least) {
        say(path);
        say("\n");
    }
    char **list = names(path, &found);
    for (int i = 0; i < found; i++) {
        char below[8192];
        struct stat status;
        snprintf(below, sizeof below, "%s/%s", path, list[i]);
        if (!lstat(below, &status) && S_ISDIR(status.st_mode)) find(below, depth + 1, least);
        else if (depth + 1 >= least) { say(below); say("\n"); }
    }
}

static int list(void) {
    int found = 0;
    char **all = names(".", &found);
    for (int i = 0; i < found; i++) { say(all[i]); say("\n"); }
    return 0;
}

static int sort(void) {
    char **lines = NULL;
    int found = 0;
    put(&in, "", 1);
    for (char *line = strtok(in.data, "\n"); line; line = strtok(NULL, "\n")) {
        lines = realloc(lines, (found + 1) * sizeof *lines);
        lines[found++] = line;
    }
    if (lines) qsort(lines, found, sizeof *lines, by_text);
    for (int i = 0; i < found; i++) { say(lines[i]); say("\n"); }
    return 0;
}

static int pause_for(const char *text) {
    double seconds = atof(text);
    flush(1);
    struct timespec time = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    return nanosleep(&time, NULL) ? fail("sleep") : 0;
}

static int run(char **argv) {
    const char *name = argv[0];
    int has_flag = argv[1] && argv[1][0] == '-';
    if (!strcmp(name, "true") || !strcmp(name, ":")) return 0;
    if (!strcmp(name, "false")) return 1;
    if (!strcmp(name, "exit")) { flush(1); exit(argv[1] ? atoi(argv[1]) : 0); }
    if (!strcmp(name, "spin")) for (volatile int i = 0;; i++) {}
    if (!strcmp(name, "trap")) __builtin_trap();
    if (!strcmp(name, "eat")) for (volatile char *more;;)
        if (!(more = malloc(1 << 20))) return fail("eat");
        else *more = 1;
    if (!strcmp(name, "echo")) return echo(argv);
    if (!strcmp(name, "printf")) { say(argv[!strcmp(argv[1], "%s") ? 2 : 1]); return 0; }
    if (!strcmp(name, "cat")) return cat(argv);
    if (!strcmp(name, "cp")) return copy(argv);
    if (!strcmp(name, "mv")) return rename(argv[1], argv[2]) ? fail(argv[1]) : 0;
    if (!strcmp(name, "ln")) return symlink(argv[2], argv[3]) ? fail(argv[3]) : 0;
    if (!strcmp(name, "mkdir")) return each(argv + 1 + has_flag, has_flag ? make_parents : make_directory);
    if (!strcmp(name, "rm")) return each(argv + 1 + has_flag, unlink);
    if (!strcmp(name, "touch")) return each(argv + 1, touch);
    if (!strcmp(name, "head")) return head(argv);
    if (!strcmp(name, "wc")) return count(argv);
    if (!strcmp(name, "sort")) return sort();
    if (!strcmp(name, "ls")) return list();
    if (!strcmp(name, "pwd")) { say(getenv("PWD")); say("\n"); return 0; }
    if (!strcmp(name, "find")) { find(argv[1], 0, argv[2] ? atoi(argv[3]) : 0); return 0; }
    if (!strcmp(name, "sleep")) return pause_for(argv[1]);
    if (!strcmp(name, "date")) {
        char text[32];
        snprintf(text, sizeof text, "%lld\n", (long long)time(NULL));
        say(text);
        return 0;
    }
    if (!strcmp(name, "random")) {
        unsigned char bytes[8];
        char text[4];
        getentropy(bytes, sizeof bytes);
        for (size_t i = 0; i < sizeof bytes; i++) { snprintf(text, sizeof text, "%02x", bytes[i]); say(text); }
        say("\n");
        return 0;
    }
    if (!strcmp(name, "env")) {
        for (char **one = environ; *one; one++) { say(*one); say("\n"); }
        return 0;
    }
    fprintf(stderr, "%s: not found\n", name);
    return 127;
}

/* Takes one word with its quotes and variables; answers where it ends. */
static const char *take_word(const char *at, char **word) {
    Buffer text = {0};
    char quote = 0;
    for (; *at && (quote || !strchr(" \n;|>", *at)); at++) {
        if (quote ? *at == quote : *at == '\'' || *at == '"') {
            quote = quote ? 0 : *at;
        } else if (*at == '$' && quote != '\'') {
            char name[64];
            size_t size = strspn(at + 1, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_");
            snprintf(name, sizeof name, "%.*s", (int)size, at + 1);
            const char *value = getenv(name);
            if (value) put(&text, value, strlen(value));
            at += size;
        } else {
            put(&text, at, 1);
        }
    }
    put(&text, "", 1);
    *word = text.data;
    return at;
}

static int interpret(const char *at) {
    int status = 0;
    while (*at) {
        char *argv[256];
        int argc = 0, fd = 1;
        for (at += strspn(at, " \n;"); *at && !strchr("\n;|", *at); at += strspn(at, " ")) {
            if (*at != '>') {
                at = take_word(at, &argv[argc++]);
                continue;
            }
            if (at[1] == '&') {
                fd = 2;
                at += 3;
                continue;
            }
            int flags = at[1] == '>' ? O_APPEND : O_TRUNC;
            char *path;
            at += 1 + (flags == O_APPEND);
            at = take_word(at + strspn(at, " "), &path);
            if ((fd = open(path, O_CREAT | O_WRONLY | flags, 0644)) < 0) return fail(path);
        }
        argv[argc] = NULL;
        if (argc) status = run(argv);
        in.size = 0;
        if (*at == '|') {
            put(&in, out.data, out.size);
            out.size = 0;
            at++;
        } else {
            status |= flush(fd);
        }
        if (fd > 2) close(fd);
    }
    return status;
}

int main(int argc, char **argv) {
    setvbuf(stderr, NULL, _IONBF, 0);
    if (!strcmp(argv[0], "sh") && argc > 2) return interpret(argv[2]);
    int status = run(argv);
    return flush(1) || status;
}
