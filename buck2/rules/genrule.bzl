"""One output from one shell command."""

load("//buck2/platforms:properties.bzl", "ENVIRONMENT")

def _genrule_impl(ctx: AnalysisContext) -> list[Provider]:
    output = ctx.actions.declare_output(ctx.attrs.out)
    ctx.actions.run(
        cmd_args("/bin/sh", "-euc", ctx.attrs.cmd, hidden = ctx.attrs.srcs),
        category = "genrule",
        env = {
            "OUT": cmd_args(output.as_output()),
            "PATH": "/usr/bin:/bin",
            "SRCS": cmd_args(ctx.attrs.srcs, delimiter = " "),
        } | ENVIRONMENT,
    )
    return [DefaultInfo(default_output = output)]

genrule = rule(
    impl = _genrule_impl,
    attrs = {
        "cmd": attrs.arg(),
        "out": attrs.string(),
        "srcs": attrs.list(attrs.source(), default = []),
    },
    doc = "Runs `cmd` in a shell. It reads $SRCS and whatever $(exe ...) and $(location ...) name, and writes $OUT.",
)
