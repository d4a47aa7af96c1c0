"""A certificate authority for one session: what an action's clients see in place of the origins'
own certificates.

It lives in memory for as long as the session does, and is good for nothing else: whoever trusts it
trusts only this session's proxy. Its private key is never written anywhere.
"""

from __future__ import annotations

import os
import ssl
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from armitage.witness.reach import parse_address

LIFETIME = timedelta(hours=24)
_SKEW = timedelta(minutes=5)
"""How far an action's clock may be behind."""
_CONTEXTS = 256
_CURVE = ec.SECP256R1


class SessionAuthority:
    """Makes a server certificate for each host that the session connects to."""

    def __init__(self, session: str, now_s: float, lifetime: timedelta = LIFETIME) -> None:
        """`now_s` is in seconds since 1970."""
        self._lifetime = lifetime
        self._now = datetime.fromtimestamp(now_s, UTC)
        self._key = ec.generate_private_key(_CURVE())
        self._leaf_key = ec.generate_private_key(_CURVE())
        self._name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Armitage"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"Armitage witness {session}"[:64]),
            ]
        )
        self._certificate = self._sign_own()
        self._contexts: OrderedDict[str, ssl.SSLContext] = OrderedDict()

    @property
    def certificate(self) -> bytes:
        """What clients are to trust, as PEM."""
        return self._certificate.public_bytes(Encoding.PEM)

    def context(self, host: str) -> ssl.SSLContext:
        """What to serve a client with that believes to talk to this host (a name or an address).

        Offers HTTP/1.1 alone. Raises ValueError for what can be in no certificate.
        """
        known = self._contexts.pop(host, None)
        context = self._make_context(host) if known is None else known
        self._contexts[host] = context
        if len(self._contexts) > _CONTEXTS:
            self._contexts.popitem(last=False)
        return context

    def caught_context(self, choose: Callable[[str | None], str | None]) -> ssl.SSLContext:
        """What to serve a client with of which it is not known yet whom it believes to talk to:
        `choose` is given the name that it asks for, and answers the host, or None to refuse it.
        """
        context = _server_context()

        def switch(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
            host = choose(name)
            if host is None:
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            try:
                tls.context = self.context(host)
            except ValueError:  # No certificate can be of this name.
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            return None

        context.sni_callback = switch
        return context

    def _builder(self, subject: x509.Name) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _SKEW)
            .not_valid_after(self._now + self._lifetime)
        )

    def _sign_own(self) -> x509.Certificate:
        own = self._key.public_key()
        return (
            self._builder(self._name)
            .public_key(own)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _sign_leaf(self, host: str) -> x509.Certificate:
        address = parse_address(host)
        alternative = x509.DNSName(host) if address is None else x509.IPAddress(address)
        # Only the alternative names count; the common name is for people, and short.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            self._builder(subject)
            .public_key(self._leaf_key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(issuer_key, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _make_context(self, host: str) -> ssl.SSLContext:
        leaf = self._sign_leaf(host).public_bytes(Encoding.PEM)
        key = self._leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        context = _server_context()
        # Whoever asks for one host and then names another in the handshake is fronting.
        context.sni_callback = lambda _, name, __: _check_name(host, name)
        _load(context, leaf + self.certificate + key)
        return context


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _check_name(host: str, name: str | None) -> int | None:
    """Answers the alert that ends a handshake whose server name is not the host. An address has no
    server name.
    """
    expected = host if parse_address(host) is None else None
    given = None if name is None else name.lower()
    return None if given == expected else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Python's ssl reads keys from files only; this one exists in memory alone."""
    fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(fd, pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
