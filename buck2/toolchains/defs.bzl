"""Toolchains by absolute path: the worker's sandbox shows its read-only system at the same place."""

load("//buck2/platforms:properties.bzl", "ENVIRONMENT")

CcToolchainInfo = provider(
    doc = "How to compile, archive and link C.",
    fields = {
        "archiver": provider_field(str),
        "compiler": provider_field(str),
        "compiler_flags": provider_field(list[str]),
        "environment": provider_field(dict[str, str]),
    },
)

def _cc_toolchain_impl(ctx: AnalysisContext) -> list[Provider]:
    return [
        DefaultInfo(),
        CcToolchainInfo(
            archiver = ctx.attrs.archiver,
            compiler = ctx.attrs.compiler,
            compiler_flags = ctx.attrs.compiler_flags,
            # Buck2 sends no PATH of its own, and gcc looks there for the assembler and the linker.
            environment = {"PATH": "/usr/bin:/bin"} | ENVIRONMENT,
        ),
    ]

cc_toolchain = rule(
    impl = _cc_toolchain_impl,
    is_toolchain_rule = True,
    attrs = {
        "archiver": attrs.string(),
        "compiler": attrs.string(),
        "compiler_flags": attrs.list(attrs.string(), default = []),
    },
)
