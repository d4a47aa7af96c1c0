"""One output from one run of a WebAssembly program (docs/wasm.md)."""

load("//buck2/platforms:properties.bzl", "ENVIRONMENT")

def _wasm_run_impl(ctx: AnalysisContext) -> list[Provider]:
    output = ctx.actions.declare_output(ctx.attrs.out)
    program = ctx.attrs.program if ctx.attrs.program_file == None else ctx.attrs.program_file
    ctx.actions.run(
        cmd_args(program, ctx.attrs.args, output.as_output(), ctx.attrs.src),
        category = "wasm_run",
        env = ENVIRONMENT,
    )
    return [DefaultInfo(default_output = output)]

wasm_run = rule(
    impl = _wasm_run_impl,
    attrs = {
        "args": attrs.list(attrs.string(), default = []),
        "out": attrs.string(),
        "program": attrs.string(default = ""),
        "program_file": attrs.option(attrs.source(), default = None),
        "src": attrs.source(),
    },
    doc = "Runs PROGRAM ARGS... OUT SRC. `program` is a name that the worker knows (executor.wasm.toolchains), `program_file` a .wasm of the build.",
)
