"""How the clients of package registries are told of the proxy and of its authority.

Nothing is enforced here: whoever does not listen has no other way out. The bundle holds the
session's authority alone, so that a client that found another way would trust nobody there.

All variables and paths are the same for every session, and only the contents of the files differ.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

DIRECTORY = "/run/armitage/witness"
"""Where the files are inside a sandbox."""
_BUNDLE, _TRUST_STORE, _APT, _WGET = "ca.pem", "ca.p12", "apt.conf", "wgetrc"
_JAVA_PASSWORD = "changeit"  # noqa: S105 (Java wants one, and what it guards is no secret)
_BUNDLE_VARIABLES = (
    "SSL_CERT_FILE",  # OpenSSL, Go, rustls, .NET
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "NPM_CONFIG_CAFILE",
    "DENO_CERT",
    "AWS_CA_BUNDLE",
    "NIX_SSL_CERT_FILE",
    "BUNDLE_SSL_CA_CERT",
)


def environment(proxy: str, directory: str = DIRECTORY) -> Mapping[str, str]:
    """Variables for curl, wget, git, pip, npm, cargo, Go, apt, Java, Node and others.

    `proxy` is HOST:PORT; `directory` is where `files` are shown.
    """
    host, _, port = proxy.rpartition(":")
    url, bundle = f"http://{proxy}", f"{directory}/{_BUNDLE}"
    java = [
        f"-D{scheme}.proxyHost={host} -D{scheme}.proxyPort={port}" for scheme in ("http", "https")
    ]
    java += [
        f"-Djavax.net.ssl.trustStore={directory}/{_TRUST_STORE}",
        "-Djavax.net.ssl.trustStoreType=pkcs12",
        f"-Djavax.net.ssl.trustStorePassword={_JAVA_PASSWORD}",
    ]
    return {
        # curl reads http_proxy in lower case alone; others read either.
        "http_proxy": url,
        **{name: url for lower in ("https_proxy", "all_proxy") for name in (lower, lower.upper())},
        "no_proxy": "",
        "NO_PROXY": "",
        "CARGO_HTTP_PROXY": url,
        "NODE_USE_ENV_PROXY": "1",
        "JAVA_TOOL_OPTIONS": " ".join(java),
        "APT_CONFIG": f"{directory}/{_APT}",
        "WGETRC": f"{directory}/{_WGET}",
        # Nobody else's certificates, wherever the directory of the system's is looked for.
        "SSL_CERT_DIR": "/nonexistent",
        **dict.fromkeys(_BUNDLE_VARIABLES, bundle),
    }


def files(proxy: str, certificate: bytes, directory: str = DIRECTORY) -> dict[str, bytes]:
    """What the variables name, by path: the authority in two forms, and the settings of clients
    that read no variable for theirs.
    """
    bundle = f"{directory}/{_BUNDLE}"
    apt = (
        f'Acquire::http::Proxy "http://{proxy}";\n'
        f'Acquire::https::Proxy "http://{proxy}";\n'
        f'Acquire::https::CAInfo "{bundle}";\n'
    )
    return {
        bundle: certificate,
        f"{directory}/{_TRUST_STORE}": _trust_store(certificate),
        f"{directory}/{_APT}": apt.encode(),
        f"{directory}/{_WGET}": f"ca_certificate = {bundle}\n".encode(),
    }


def _trust_store(certificate: bytes) -> bytes:
    trusted = pkcs12.PKCS12Certificate(x509.load_pem_x509_certificate(certificate), b"witness")
    encryption = BestAvailableEncryption(_JAVA_PASSWORD.encode())
    return pkcs12.serialize_java_truststore([trusted], encryption)
