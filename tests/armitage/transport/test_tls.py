"""TLS files that change, and who a client proves to be."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from support.certificates import Authority
from support.transports import TRANSPORTS, Transport

from armitage.transport.port import Call, Unary
from armitage.transport.tls import FollowedTls, TlsFiles, subject_of

Name = list[list[tuple[x509.ObjectIdentifier, str]]]

SUBJECTS: list[Name] = [
    [[(NameOID.COMMON_NAME, "alice")]],
    [
        [(NameOID.COUNTRY_NAME, "CH")],
        [(NameOID.ORGANIZATION_NAME, "Tessier-Ashpool, S.A.")],
        [(NameOID.ORGANIZATIONAL_UNIT_NAME, 'a"b\\c;d<e>f')],
        [(NameOID.COMMON_NAME, "case")],
    ],
    [[(NameOID.COMMON_NAME, " #leading and trailing ")]],
    [[(NameOID.COMMON_NAME, "#number")]],
    [[(NameOID.COMMON_NAME, "M\u00f6lly \u2603")]],
    [[(NameOID.COMMON_NAME, "one"), (NameOID.EMAIL_ADDRESS, "one@example.org")]],
    [
        [(NameOID.DOMAIN_COMPONENT, "org")],
        [(NameOID.USER_ID, "u1")],
        [(NameOID.SURNAME, "S")],
        [(NameOID.GIVEN_NAME, "G")],
        [(NameOID.LOCALITY_NAME, "L")],
        [(NameOID.STATE_OR_PROVINCE_NAME, "P")],
        [(NameOID.STREET_ADDRESS, "Street 1")],
        [(NameOID.SERIAL_NUMBER, "42")],
        [(NameOID.TITLE, "T")],
    ],
]


async def identity_of(name: Name, transport: Transport, directory: Path) -> str:
    """What handlers are told of a client with that certificate."""

    async def identify(request: bytes, call: Call) -> bytes:
        return (call.identity or "").encode()

    authority = Authority()
    certificate, key = authority.issue("server").write(directory, "server")
    (directory / "clients.crt").write_bytes(authority.certificate)
    files = TlsFiles(certificate, key, directory / "clients.crt")
    subject = x509.Name(
        x509.RelativeDistinguishedName([x509.NameAttribute(oid, value) for oid, value in part])
        for part in name
    )
    client = authority.issue(subject)
    credentials = grpc.ssl_channel_credentials(
        authority.certificate, client.key, client.certificate
    )
    async with transport.serving(
        Unary("/s/Who", identify), tls=files, credentials=credentials
    ) as subject_of_test:
        answer: bytes = await subject_of_test.unary("/s/Who")(b"")
        return answer.decode()


@pytest.mark.parametrize("name", SUBJECTS, ids=range(len(SUBJECTS)))
async def test_identity_is_written_as_grpc_writes_it(name: Name, tmp_path: Path) -> None:
    fast = await identity_of(name, TRANSPORTS["fast"], tmp_path)

    assert fast
    assert fast == await identity_of(name, TRANSPORTS["grpcio"], tmp_path)


def test_certificate_without_a_subject_proves_nobody() -> None:
    assert subject_of({}) is None
    assert subject_of({"subject": ()}) is None


def test_context_offers_http_2_and_no_old_tls(tmp_path: Path) -> None:
    certificate, key = Authority().issue("server").write(tmp_path, "server")
    context = FollowedTls(TlsFiles(certificate, key)).context()

    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.verify_mode == ssl.CERT_NONE


def test_files_are_read_again_once_they_changed(tmp_path: Path) -> None:
    authority = Authority()
    files = TlsFiles(*authority.issue("server").write(tmp_path, "server"))
    tls = FollowedTls(files)
    before = tls.context()
    assert tls.context() is before

    authority.issue("server").write(tmp_path, "server")
    assert tls.context() is not before


def test_broken_files_leave_the_old_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = TlsFiles(*Authority().issue("server").write(tmp_path, "server"))
    tls = FollowedTls(files)
    before = tls.context()

    files.key.write_bytes(b"half a ke")
    assert tls.context() is before
    assert "keeping the old TLS certificate" in caplog.text
