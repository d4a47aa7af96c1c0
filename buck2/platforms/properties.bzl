"""What a build asks for with all its actions, such as `buck2 build -c armitage.coeffects=gpu -c armitage.gpu_arch=sm_90 //:engine`."""

PROPERTIES = {
    name: read_config("armitage", name.replace("-", "_"))
    for name in ["coeffects", "gpu-arch", "gpu-driver"]
    if read_config("armitage", name.replace("-", "_"))
}

# Buck2 runs an action again when its command, environment or inputs change, not when its platform's properties do.
ENVIRONMENT = {
    "ARMITAGE_" + name.upper().replace("-", "_"): value
    for name, value in PROPERTIES.items()
}
