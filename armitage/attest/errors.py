"""What can be wrong with an attestation."""

from armitage.errors import ArmitageError


class AttestationError(ArmitageError):
    """The root of the attestations' errors."""


class MalformedAttestation(AttestationError):
    """These bytes are no envelope, statement, entry or bundle in the one form that is accepted."""


class BadSignature(AttestationError):
    """The signature does not fit what is said to be signed, or is of another key."""


class NotAttestable(AttestationError):
    """About this action nothing can be signed; the message says why."""


class NotVerified(AttestationError):
    """One of the steps from an attestation to the checkpoint failed."""

    def __init__(self, step: str, why: str) -> None:
        super().__init__(f"{step}: {why}")
        self.step = step
        self.why = why
