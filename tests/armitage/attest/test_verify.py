"""armitage.attest.bundle and .verify: a bundle holds, and nothing that was changed does."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from support.attested import (
    LOG,
    SIGNER,
    bundle,
    checker,
    facts,
    known,
    named,
    receipt_of,
    record_of,
)

from armitage.attest.bundle import Bundle, bundle_of, parse_bundle
from armitage.attest.canonical import canonical
from armitage.attest.dsse import Envelope, sign
from armitage.attest.entries import (
    Kind,
    attestation_record,
    entry_of,
    parse_attestation_record,
    record_digest,
)
from armitage.attest.errors import AttestationError, MalformedAttestation, NotVerified
from armitage.attest.facts import ActionFacts, Outputs
from armitage.attest.keys import SeedSigner
from armitage.attest.statement import statements
from armitage.attest.verify import Known, Verification, verify_bundle
from armitage.log.note import KeyType, Signer
from armitage.proofs import Reason
from armitage.proofs.checker import declaration_of

OTHER = SeedSigner(bytes(32))
OTHER_LOG = Signer("log.example/other", KeyType.ED25519, bytes(32))
SAME_NAME = Signer(LOG.public.name, KeyType.ED25519, bytes(32))


def test_a_bundle_is_verified_from_the_signature_to_the_checkpoint() -> None:
    made = bundle()

    verified = verify_bundle(made, known())

    assert verified.key_id == SIGNER.public.key_id
    assert (verified.log, verified.index) == (str(LOG.public), 1)
    assert verified.record == record_digest(made.record)
    assert verified.claim.action == facts().action


def test_each_step_is_told() -> None:
    steps = {step.name: step.found for step in Verification(bundle(), known()).steps()}

    assert steps == {
        "signature": f"3 statements by {SIGNER.public.key_id[:16]}",
        "entry": f"names {record_digest(bundle().record).hash[:16]}",
        "receipt": "entry 1 of 2 in log.example/armitage",
        "documents": "3 with the hashes that are signed",
        "checker": f"module {checker().module_sha256[:16]} approves",
        "outputs": "1 subjects",
    }


def test_a_bundle_is_read_back() -> None:
    made = bundle(facts("network:h.example"))

    assert parse_bundle(made.encode()) == made


def test_in_toto_tools_see_three_envelopes_and_a_line_to_pass_over() -> None:
    lines = [json.loads(line) for line in bundle().encode().splitlines()]

    assert [sorted(line) for line in lines[:3]] == [["payload", "payloadType", "signatures"]] * 3
    assert "payloadType" not in lines[3]


ALPHABET = string.ascii_letters + string.digits + "+/"


def mutations(data: bytes) -> Iterator[bytes]:
    """Each byte changed to a neighbour in base64's alphabet, which parsers let through, or by one
    bit.
    """
    for number, byte in enumerate(data):
        at = ALPHABET.find(chr(byte))
        other = ord(ALPHABET[at ^ 1]) if at >= 0 else byte ^ 1
        yield data[:number] + bytes([other]) + data[number + 1 :]


def is_refused(data: bytes, trusted: Known) -> bool:
    try:
        verify_bundle(parse_bundle(data), trusted)
    except AttestationError:
        return True
    return False


@pytest.mark.slow
def test_every_changed_byte_is_noticed() -> None:
    data, trusted = bundle().encode(), known()
    assert not is_refused(data, trusted)

    assert all(is_refused(changed, trusted) for changed in mutations(data))


@pytest.mark.slow
def test_every_truncation_and_missing_byte_is_noticed() -> None:
    data, trusted = bundle().encode(), known()

    for end in range(len(data)):
        assert is_refused(data[:end], trusted)
        assert is_refused(data[:end] + data[end + 1 :], trusted)


def test_something_added_is_noticed() -> None:
    data, trusted = bundle().encode(), known()
    first = data.splitlines(keepends=True)[0]

    for added in (b" " + data, data + b"\n", data + b" ", first + data, data + first):
        assert is_refused(added, trusted)


def refusal(made: Bundle, trusted: Known | None = None) -> str:
    with pytest.raises(NotVerified) as caught:
        verify_bundle(made, trusted or known())
    return str(caught.value)


def logged(record: bytes, told: ActionFacts) -> Bundle:
    """A record that is logged as of this action, whatever it says."""
    entry = entry_of(Kind.ATTESTATION, told.instance, told.action, record).encode()
    documents = [told.declaration, told.evidence, told.outputs.document()]
    return bundle_of(record, entry, receipt_of(entry), documents)


def test_a_key_that_is_not_known_is_refused() -> None:
    assert refusal(bundle(signer=OTHER)).startswith("signature: its key")


def test_a_key_id_does_not_make_a_signature() -> None:
    envelopes = parse_attestation_record(record_of(facts(), OTHER))
    forged = attestation_record([replace(e, key_id=SIGNER.public.key_id) for e in envelopes])

    assert refusal(logged(forged, facts())).startswith("signature: the signature is not of the key")


def test_two_signers_make_no_attestation() -> None:
    ours, theirs = (parse_attestation_record(record_of(facts(), key)) for key in (SIGNER, OTHER))
    mixed = attestation_record([ours[0], *theirs[1:]])

    assert refusal(logged(mixed, facts())) == "signature: the statements name several keys"


def test_statements_of_two_actions_make_none() -> None:
    one, two = (
        parse_attestation_record(record_of(facts(invocation=invocation))) for invocation in "12"
    )
    mixed = attestation_record([one[0], *two[1:]])

    assert refusal(logged(mixed, facts())).startswith("signature: the statements contradict")


def test_another_payload_type_is_refused() -> None:
    envelopes: list[Envelope] = [sign(SIGNER, each, "text/x") for each in statements(facts())]

    assert "text/x" in refusal(logged(attestation_record(envelopes), facts()))


@pytest.mark.parametrize(
    "told", [facts(instance="other"), facts(action=named("other"))], ids=["instance", "action"]
)
def test_an_entry_of_something_else_is_refused(told: ActionFacts) -> None:
    made = logged(record_of(facts()), told)

    assert refusal(made) == "entry: the log's entry is of another attestation"


def test_a_denial_is_no_attestation() -> None:
    made = bundle()
    entry = entry_of(Kind.DENIED, "main", facts().action, made.record).encode()

    assert refusal(replace(made, entry=entry, receipt=receipt_of(entry))).startswith("entry: ")


@pytest.mark.parametrize("log", [OTHER_LOG, SAME_NAME], ids=["name", "key"])
def test_another_log_is_refused(log: Signer) -> None:
    assert refusal(bundle(log=log)).startswith("receipt: ")


def test_a_receipt_of_another_entry_is_refused() -> None:
    made = replace(bundle(), receipt=bundle(facts(invocation="2")).receipt)

    assert refusal(made) == "receipt: the inclusion proof of entry 1 leads to another root"


@pytest.mark.parametrize(
    "documents",
    [
        lambda found: found[:2],
        lambda found: [*found[:2], b"other"],
        lambda found: [*found, b"other"],
        lambda found: [],
    ],
)
def test_missing_and_other_documents_are_refused(
    documents: Callable[[tuple[bytes, ...]], list[bytes]],
) -> None:
    made = bundle()
    spoilt = bundle_of(made.record, made.entry, made.receipt, documents(made.documents))

    assert refusal(spoilt).startswith("documents: ")


def test_what_the_checker_does_not_approve_is_refused_though_it_is_signed() -> None:
    """A daemon that lies about the verdict, or whose checker was another."""
    honest = facts("network:h.example")
    pure = declaration_of("pure")
    lie = replace(honest.verdict, declaration_sha256=record_digest(pure).hash)

    made = bundle(replace(honest, declaration=pure, verdict=lie))

    assert refusal(made).startswith("checker: the checker does not approve: it connected to h.ex")


def test_a_checker_that_is_not_here_is_refused() -> None:
    told = facts()
    other = replace(told.verdict, module_sha256="ab" * 32)

    assert "checker: the checker abab" in refusal(bundle(replace(told, verdict=other)))


def test_the_named_checker_decides_and_no_other() -> None:
    told = facts()
    other = replace(told.verdict, module_sha256="ab" * 32)

    def rejects(declaration: bytes, evidence: bytes) -> Any:
        return replace(told.verdict, approved=False, reasons=(Reason("more 1"),))

    trusted = replace(known(), checkers={**known().checkers, "ab" * 32: rejects})

    assert refusal(bundle(replace(told, verdict=other)), trusted).endswith("and 1 more")
    assert verify_bundle(bundle(told), trusted)


@pytest.mark.parametrize(
    ("subjects", "why"),
    [
        ((("out/a", named("b")),), "the output 'out/a' is no subject"),
        ((("out/b", named("a")),), "the output 'out/a' is no subject"),
        ((), "the output 'out/a' is no subject"),
        ((("out/a", named("a")), ("b", named("b"))), "the subject 'b' is no output"),
    ],
)
def test_subjects_are_the_outputs(subjects: tuple[Any, ...], why: str) -> None:
    assert refusal(bundle(facts(subjects=subjects))) == f"outputs: {why}"


def test_files_of_an_output_directory_are_subjects_too() -> None:
    outputs = Outputs(0, directories=(("d", named("tree")),))
    made = facts(outputs=outputs, subjects=(("d/a", named("a")), ("d/b/c", named("c"))))

    assert verify_bundle(bundle(made), known())
    assert "is no output" in refusal(bundle(replace(made, subjects=(("dd", named("a")),))))


def test_a_tree_may_stand_for_its_directory() -> None:
    made = facts(outputs=Outputs(0, directories=(("d", named("tree")),)))

    assert verify_bundle(bundle(replace(made, subjects=(("d", named("tree")),))), known())
    other = replace(made, subjects=(("d", named("another")),))
    assert "the subject 'd' is no output" in refusal(bundle(other))


def test_an_action_without_outputs_is_verified() -> None:
    assert verify_bundle(bundle(facts(outputs=Outputs(0), subjects=())), known())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: {**m, "mediaType": "other"},
        lambda m: {**m, "more": 1},
        lambda m: {**m, "documents": m["documents"][::-1]},
        lambda m: {**m, "documents": [*m["documents"], m["documents"][0]]},
        lambda m: {**m, "documents": "none"},
        lambda m: {**m, "documents": [1]},
        lambda m: {**m, "receipt": m["receipt"].replace("index", "extra YQ==\nindex")},
        lambda m: {**m, "receipt": ""},
        lambda m: {k: v for k, v in m.items() if k != "entry"},
    ],
)
def test_material_has_one_form(spoil: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    *envelopes, material = bundle().encode().splitlines()
    spoilt = b"".join(line + b"\n" for line in [*envelopes, canonical(spoil(json.loads(material)))])

    with pytest.raises(MalformedAttestation):
        parse_bundle(spoilt)
