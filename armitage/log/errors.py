"""What can be wrong with a log, a note or a proof."""

from armitage.errors import ArmitageError


class LogError(ArmitageError):
    """The root of the log's errors."""


class MalformedNote(LogError):
    """These bytes are no signed note (C2SP signed-note), checkpoint or proof."""


class InvalidSignature(LogError):
    """A signature of a known key does not fit the text, or no known key signed it."""


class InvalidProof(LogError):
    """The proof does not lead from what it starts at to the root that it should reach."""


class LogDamaged(LogError):
    """What is on disk is not what was signed. Nothing may be signed on top of it."""


class NotLogged(LogError):
    """The log has no such entry or tile (yet)."""
