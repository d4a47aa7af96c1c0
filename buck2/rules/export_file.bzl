"""Files of one package as sources of another."""

def _export_file_impl(ctx: AnalysisContext) -> list[Provider]:
    return [DefaultInfo(default_output = ctx.attrs.src)]

_export_file = rule(
    impl = _export_file_impl,
    attrs = {
        "src": attrs.source(),
    },
    doc = "The file itself.",
)

def export_file(name, visibility = ["PUBLIC"]):
    """The file `name` of this package, as a target of that name."""
    _export_file(name = name, src = name, visibility = visibility)
