/* Documents: records of u32 kind, u32 size and so many bytes; numbers in this machine's order,
 * texts ended by NUL. Nothing here trusts the sizes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher.h"

static _Noreturn void malformed(void) {
    errno = 0;
    die("the launcher was given a malformed document");
}

struct document document_read(int fd) {
    struct stat status;
    if (fstat(fd, &status) < 0) die("reading the document");
    if (status.st_size <= 0) malformed();
    void *data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (data == MAP_FAILED) die("reading the document");
    return (struct document){data, (size_t)status.st_size, 0};
}

bool document_next(struct document *document, struct record *record) {
    size_t left = document->size - document->at;
    if (left == 0) return false;
    uint32_t head[2];
    if (left < sizeof head) malformed();
    memcpy(head, document->data + document->at, sizeof head);
    if (head[1] > left - sizeof head) malformed();
    record->op = (enum op)head[0];
    record->data = document->data + document->at + sizeof head;
    record->size = head[1];
    document->at += sizeof head + head[1];
    return true;
}

static void take(struct record *record, void *into, uint32_t size) {
    if (record->size < size) malformed();
    memcpy(into, record->data, size);
    record->data += size;
    record->size -= size;
}

uint32_t take_u32(struct record *record) {
    uint32_t value;
    take(record, &value, sizeof value);
    return value;
}

uint64_t take_u64(struct record *record) {
    uint64_t value;
    take(record, &value, sizeof value);
    return value;
}

const char *take_text(struct record *record) {
    const char *text = record->data;
    const char *end = memchr(text, 0, record->size);
    if (end == NULL) malformed();
    record->size -= (uint32_t)(end - text) + 1;
    record->data = end + 1;
    return text;
}

struct ids take_ids(struct record *record) {
    struct ids ids;
    ids.uid = take_u32(record);
    ids.gid = take_u32(record);
    ids.outer_uid = take_u32(record);
    ids.outer_gid = take_u32(record);
    return ids;
}
