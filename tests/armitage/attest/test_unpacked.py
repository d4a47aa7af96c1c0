from hashlib import sha256

import pytest
from support.attested import SIGNER, bundle, facts

from armitage.attest.bundle import bundle_of
from armitage.attest.errors import MalformedAttestation
from armitage.attest.statement import statements
from armitage.attest.unpacked import unpacked


def test_what_is_unpacked_is_what_was_signed_and_logged() -> None:
    told, made = facts(), bundle()

    files = unpacked(made)

    assert [files[f"{n}.json"] for n in ("provenance", "runtime-trace", "verdict")] == statements(
        told
    )
    SIGNER.public.verify(files["verdict.pae"], files["verdict.sig"])
    assert (files["declaration"], files["evidence"]) == (told.declaration, told.evidence)
    assert sha256(files["outputs.json"]).hexdigest() == told.outputs.sha256()
    assert (files["entry"], files["receipt.tlog-proof"]) == (made.entry, made.receipt.encode())


def test_a_bundle_that_lacks_a_document_is_refused() -> None:
    made = bundle()

    with pytest.raises(MalformedAttestation):
        unpacked(bundle_of(made.record, made.entry, made.receipt, made.documents[:2]))
