"""C libraries and programs, one action for each source, archive and program."""

load("//buck2/toolchains:defs.bzl", "CcToolchainInfo")

CcLibraryInfo = provider(
    doc = "What a dependant compiles against and links; both in the order of the command line.",
    fields = {
        "archives": provider_field(list[Artifact]),
        "headers": provider_field(list[Artifact]),
        "include_directories": provider_field(list[str]),
    },
)

_COMMON_ATTRS = {
    "deps": attrs.list(attrs.dep(providers = [CcLibraryInfo]), default = []),
    "srcs": attrs.list(attrs.source()),
    "_toolchain": attrs.toolchain_dep(
        default = "root//buck2/toolchains:cc",
        providers = [CcToolchainInfo],
    ),
}

def _collect(ctx: AnalysisContext, field: str) -> list:
    """A field of every dependency, each entry once, dependants before what they depend on."""
    seen = {}
    for dep in ctx.attrs.deps:
        for entry in getattr(dep[CcLibraryInfo], field):
            # The last mention wins, so that an archive follows everything that needs it.
            seen.pop(entry, None)
            seen[entry] = True
    return seen.keys()

def _compile(ctx: AnalysisContext, headers: list[Artifact], include_directories: list[str]) -> list[Artifact]:
    toolchain = ctx.attrs._toolchain[CcToolchainInfo]
    objects = []
    for source in ctx.attrs.srcs:
        output = ctx.actions.declare_output(source.short_path + ".o")
        command = cmd_args(
            toolchain.compiler,
            toolchain.compiler_flags,
            cmd_args(include_directories, format = "-I{}"),
            "-c",
            source,
            "-o",
            output.as_output(),
            hidden = headers,
        )
        ctx.actions.run(
            command,
            category = "cc_compile",
            identifier = source.short_path,
            env = toolchain.environment,
        )
        objects.append(output)
    return objects

def _cc_library_impl(ctx: AnalysisContext) -> list[Provider]:
    toolchain = ctx.attrs._toolchain[CcToolchainInfo]
    headers = ctx.attrs.headers + _collect(ctx, "headers")
    include_directories = [ctx.label.package] + [
        directory
        for directory in _collect(ctx, "include_directories")
        if directory != ctx.label.package
    ]

    archive = ctx.actions.declare_output("lib{}.a".format(ctx.label.name))
    ctx.actions.run(
        # D: no times and no owners in the archive.
        cmd_args(
            toolchain.archiver,
            "rcsD",
            archive.as_output(),
            _compile(ctx, headers, include_directories),
        ),
        category = "cc_archive",
        env = toolchain.environment,
    )
    return [
        DefaultInfo(default_output = archive),
        CcLibraryInfo(
            archives = [archive] + _collect(ctx, "archives"),
            headers = headers,
            include_directories = include_directories,
        ),
    ]

cc_library = rule(
    impl = _cc_library_impl,
    attrs = _COMMON_ATTRS | {
        "headers": attrs.list(attrs.source(), default = []),
    },
    doc = "A static library; dependants see its headers by their path below this package.",
)

def _cc_binary_impl(ctx: AnalysisContext) -> list[Provider]:
    toolchain = ctx.attrs._toolchain[CcToolchainInfo]
    objects = _compile(ctx, _collect(ctx, "headers"), _collect(ctx, "include_directories"))

    program = ctx.actions.declare_output(ctx.label.name)
    ctx.actions.run(
        cmd_args(
            toolchain.compiler,
            "-o",
            program.as_output(),
            objects,
            _collect(ctx, "archives"),
        ),
        category = "cc_link",
        env = toolchain.environment,
    )
    return [
        DefaultInfo(default_output = program),
        RunInfo(args = cmd_args(program)),
    ]

cc_binary = rule(
    impl = _cc_binary_impl,
    attrs = _COMMON_ATTRS,
    doc = "A program linked from its sources and the archives of its dependencies.",
)
