"""Where actions run: on Armitage, here, or on whichever is first."""

_EXECUTORS = ["remote", "hybrid", "cached"]

# What an Armitage worker on Linux offers. Buck2 sends these with each command, and a worker that
# does not offer them all is not given the action.
_PROPERTIES = {
    "OSFamily": "linux",
}

def _executor_config(executor: str, properties: dict[str, str]) -> CommandExecutorConfig:
    return CommandExecutorConfig(
        local_enabled = executor != "remote",
        remote_enabled = executor != "cached",
        remote_cache_enabled = True,
        # Results of local runs are worth sharing only where actions are meant to run locally.
        allow_cache_uploads = executor == "cached",
        remote_execution_properties = _PROPERTIES | properties,
        remote_execution_use_case = "buck2-default",
        remote_output_paths = "output_paths",
    )

def _execution_platforms_impl(ctx: AnalysisContext) -> list[Provider]:
    platform = ExecutionPlatformInfo(
        label = ctx.label.raw_target(),
        configuration = ConfigurationInfo(constraints = {}, values = {}),
        executor_config = _executor_config(ctx.attrs.executor, ctx.attrs.properties),
    )
    return [
        DefaultInfo(),
        ExecutionPlatformRegistrationInfo(platforms = [platform]),
    ]

execution_platforms = rule(
    impl = _execution_platforms_impl,
    attrs = {
        "executor": attrs.enum(_EXECUTORS),
        "properties": attrs.dict(attrs.string(), attrs.string(), default = {}),
    },
    doc = "The one execution platform of this project; `executor` says how it runs actions, `properties` what more they ask for.",
)
