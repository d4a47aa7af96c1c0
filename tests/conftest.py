"""Settings for all tests."""

from hypothesis import settings

# A deadline for one example measures the machine's other load, not the code.
settings.register_profile("armitage", deadline=None)
settings.load_profile("armitage")
