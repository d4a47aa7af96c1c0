"""armitage.witness.authority, with OpenSSL as the client."""

from __future__ import annotations

import ssl

import pytest
from cryptography import x509

from armitage.clock import SystemClock
from armitage.witness.authority import SessionAuthority

NOW = SystemClock().wall()


@pytest.fixture(scope="module")
def authority() -> SessionAuthority:
    return SessionAuthority("session-1", NOW)


def handshake(
    server: ssl.SSLContext, trusted: bytes, host: str | None, *, verify: bool = True
) -> str | None:
    """Answers the protocol that both chose. Raises ssl.SSLError."""
    client = ssl.create_default_context(cadata=trusted.decode())
    if not verify:
        client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.set_alpn_protocols(["h2", "http/1.1"])
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = client.wrap_bio(down, up, server_hostname=host)
    ends = [client_end, server.wrap_bio(up, down, server_side=True)]
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
    assert not ends
    return client_end.selected_alpn_protocol()


@pytest.mark.parametrize("host", ["h.example", "xn--bcher-kva.example", "192.0.2.1", "2001:db8::1"])
def test_clients_that_trust_the_session_take_its_certificates(
    authority: SessionAuthority, host: str
) -> None:
    assert handshake(authority.context(host), authority.certificate, host) == "http/1.1"


def test_a_certificate_is_for_its_host_alone() -> None:
    authority = SessionAuthority("session-1", NOW)
    context = authority.context("h.example")
    context.sni_callback = None

    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(context, authority.certificate, "other.example")


@pytest.mark.parametrize(
    ("connected", "named"),
    [("h.example", "other.example"), ("h.example", None), ("192.0.2.1", "h.example")],
)
def test_a_client_that_names_another_host_is_turned_away(
    authority: SessionAuthority, connected: str, named: str | None
) -> None:
    context = SessionAuthority("fronted", NOW).context(connected)

    with pytest.raises(ssl.SSLError, match="callback failed"):
        handshake(context, authority.certificate, named, verify=False)


def test_one_sessions_certificates_are_worth_nothing_in_another(
    authority: SessionAuthority,
) -> None:
    other = SessionAuthority("session-2", NOW)

    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(authority.context("h.example"), other.certificate, "h.example")


def test_an_old_sessions_certificates_are_worth_nothing() -> None:
    old = SessionAuthority("session-1", NOW - 25 * 3600)

    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(old.context("h.example"), old.certificate, "h.example")


def test_the_authority_can_make_no_other_authority(authority: SessionAuthority) -> None:
    certificate = x509.load_pem_x509_certificate(authority.certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)

    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


def test_a_hosts_certificate_is_made_once(authority: SessionAuthority) -> None:
    assert authority.context("h.example") is authority.context("h.example")


def test_not_more_contexts_are_kept_than_a_build_needs(authority: SessionAuthority) -> None:
    first = authority.context("first.example")
    for number in range(300):
        authority.context(f"h{number}.example")

    assert authority.context("first.example") is not first


def test_what_can_be_in_no_certificate_is_refused(authority: SessionAuthority) -> None:
    with pytest.raises(ValueError, match="A-label"):
        authority.context("bücher.example")
