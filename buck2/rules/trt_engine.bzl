"""Engines: models compiled for one kind of GPU, one driver and one version of their builder."""

load("//buck2/platforms:properties.bzl", "ENVIRONMENT")

def _trt_engine_impl(ctx: AnalysisContext) -> list[Provider]:
    engine = ctx.actions.declare_output(ctx.label.name + ".engine", dir = ctx.attrs.builder == "trtllm")
    info = ctx.actions.declare_output(ctx.label.name + ".engine.json")
    log = ctx.actions.declare_output(ctx.label.name + ".log")
    command = cmd_args(
        ctx.attrs.python,
        # -I: nothing of the worker's environment decides what is imported.
        "-I",
        ctx.attrs._script,
        "build",
        cmd_args(ctx.attrs.builder, format = "--builder={}"),
        cmd_args(ctx.attrs.model, format = "--model={}"),
        cmd_args(engine.as_output(), format = "--engine={}"),
        cmd_args(info.as_output(), format = "--info={}"),
        cmd_args(log.as_output(), format = "--log={}"),
        # In the command, and so in the action's key: an engine for another of these is another action.
        cmd_args(ctx.attrs.arch, format = "--arch={}"),
        cmd_args(ctx.attrs.driver, format = "--driver={}"),
        cmd_args(ctx.attrs.version, format = "--version={}"),
    )
    if ctx.attrs.config:
        command.add(cmd_args(ctx.attrs.config, format = "--config={}"))
    if ctx.attrs.timing_cache:
        command.add(cmd_args(ctx.attrs.timing_cache, format = "--timing-cache-in={}"))
    outputs = {"info": info, "log": log}
    if ctx.attrs.builder == "tensorrt":
        cache = ctx.actions.declare_output(ctx.label.name + ".timing-cache")
        command.add(cmd_args(cache.as_output(), format = "--timing-cache-out={}"))
        outputs["timing-cache"] = cache
    ctx.actions.run(
        command,
        category = "trt_engine",
        env = {"PATH": "/usr/bin:/bin"} | ENVIRONMENT | ctx.attrs.env,
    )
    return [
        DefaultInfo(
            default_output = engine,
            other_outputs = outputs.values(),
            sub_targets = {name: [DefaultInfo(default_output = output)] for name, output in outputs.items()},
        ),
    ]

trt_engine = rule(
    impl = _trt_engine_impl,
    attrs = {
        "arch": attrs.string(doc = "The GPU's architecture, such as sm_90; the action is refused on any other."),
        "builder": attrs.enum(["aotinductor", "tensorrt", "trtllm"], default = "tensorrt"),
        "config": attrs.option(attrs.source(), default = None, doc = "Precision, shapes, workspace: docs/isospin.md."),
        "driver": attrs.string(doc = "The driver's version; likewise."),
        "env": attrs.dict(attrs.string(), attrs.string(), default = {}),
        "model": attrs.source(allow_directory = True, doc = "ONNX, a TensorRT-LLM checkpoint, or a .pt2."),
        "python": attrs.string(default = "/usr/bin/python3", doc = "In the action's sandbox, with the builder's package."),
        "timing_cache": attrs.option(attrs.source(), default = None, doc = "Another engine's [timing-cache]."),
        "version": attrs.string(doc = "The builder's version; likewise."),
        "_script": attrs.source(default = "root//executor/isospin/builders:engine.py"),
    },
    doc = "An engine, with [info] (engine.json), [log] and, for TensorRT, [timing-cache].",
)
