"""The key that clients must show and the server's TLS certificate, from files."""

from __future__ import annotations

import ssl
from pathlib import Path

_MAX_KEY = 4096
"""Bytes of a key; an HTTP header holds no more."""


def read_key(file: Path) -> bytes:
    """Return the API key on the first line of a file.

    Raises:
        ValueError: the line is empty.
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        key = stream.readline(_MAX_KEY).strip()
    if not key:
        raise ValueError(f"{file} has no API key on its first line; write one there")
    return key


def server_context(certificate: Path, private_key: Path | None) -> ssl.SSLContext:
    """Return the TLS settings of a server with this certificate.

    Args:
        certificate: PEM file of the certificate chain.
        private_key: PEM file of its private key, not encrypted; in the certificate's file if None.

    Raises:
        ValueError: a file holds no certificate or not its key, or the key is encrypted.
        OSError: a file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key = private_key or certificate
    for file in (certificate, key):
        file.open("rb").close()  # an error that names the file, as the one below does not

    def refuse() -> str:  # without it OpenSSL asks for the password on the terminal
        raise ValueError(f"{key} is encrypted; give a private key without a password, readable by the server alone")

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as error:
        raise ValueError(
            f"{certificate} and {key} do not hold a PEM certificate and its private key ({error.reason}); "
            "give a certificate and a private_key that belong together"
        ) from error
    return context
