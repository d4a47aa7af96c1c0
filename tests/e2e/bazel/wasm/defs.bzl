"""Runs a WebAssembly program as an action: its file is the command."""

def _wasm_run_impl(ctx):
    out = ctx.outputs.outs[0]
    ctx.actions.run(
        mnemonic = "WasmRun",
        executable = ctx.file.tool,
        arguments = [
            argument.format(out = out.path, src = ctx.files.srcs[0].path)
            for argument in ctx.attr.arguments
        ],
        inputs = ctx.files.srcs,
        outputs = [out],
    )
    return [DefaultInfo(files = depset([out]))]

wasm_run = rule(
    implementation = _wasm_run_impl,
    attrs = {
        "arguments": attr.string_list(),
        "outs": attr.output_list(),
        "srcs": attr.label_list(allow_files = True),
        "tool": attr.label(allow_single_file = [".wasm"]),
    },
)
