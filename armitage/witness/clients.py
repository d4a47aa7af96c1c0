"""How the clients of package registries are told of the proxy and of its authority.

Nothing is enforced here: whoever does not listen has no other way out. The bundle holds the
session's authority alone, so that a client that found another way would trust nobody there.
"""

from __future__ import annotations

from collections.abc import Mapping

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


def environment(proxy: str, bundle: str) -> Mapping[str, str]:
    """Variables for curl, wget, git, pip, npm, cargo, Go, Java, Node and others.

    `proxy` is HOST:PORT, `bundle` the path of a PEM file. wget and apt read no variable for their
    authorities; they need `--ca-certificate` and `Acquire::https::CAInfo`.
    """
    host, _, port = proxy.rpartition(":")
    url = f"http://{proxy}"
    java = [
        f"-D{scheme}.proxyHost={host} -D{scheme}.proxyPort={port}" for scheme in ("http", "https")
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
        # Nobody else's certificates, wherever the directory of the system's is looked for.
        "SSL_CERT_DIR": "/nonexistent",
        **dict.fromkeys(_BUNDLE_VARIABLES, bundle),
    }
