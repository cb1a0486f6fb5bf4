"""Settings of the server: what makes no sense is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from rt1.serve.settings import ServerSettings, read_key, server_context


def test_unless_told_otherwise_only_this_machine_is_served() -> None:
    assert ServerSettings().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"max_sessions": 0}, "max_sessions is 0"),
        ({"idle_seconds": float("nan")}, "idle_seconds is nan"),
        ({"batch_wait": -0.001}, "batch_wait is -0.001"),
        ({"episode_pause": -1.0}, "episode_pause is -1"),
        ({"host": ""}, "host is '', must name an address"),
        ({"host": " "}, "host is ' ', must name an address"),
        ({"max_message_mb": math.inf}, "max_message_mb is inf"),
        ({"max_message_mb": math.nan}, "max_message_mb is nan"),
        ({"max_message_mb": -1.0}, "max_message_mb is -1"),
        ({"max_memory_mb": math.inf}, "max_memory_mb is inf"),
        ({"max_message_mb": 300.0}, "max_message_mb is 300"),
        ({"port": 70_000}, "port is 70000"),
        ({"private_key": Path("key.pem")}, "key.pem, but no certificate. Give both"),
    ],
)
def test_settings_that_make_no_sense_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerSettings(**choices)


def test_the_key_is_the_first_line_without_spaces(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b" s\xc3\xa9cret \r\nanother line\n")
    assert read_key(tmp_path / "key") == "sécret".encode()


@pytest.mark.parametrize("content", [b"", b"\n", b"  \nsecret\n"])
def test_a_key_file_without_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ValueError, match="has no API key on its first line"):
        read_key(tmp_path / "key")


def test_a_certificate_that_cannot_be_used_is_named(authority: trustme.CA, tmp_path: Path) -> None:
    pem, other, missing = tmp_path / "certificate.pem", tmp_path / "other.pem", tmp_path / "missing.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(other)
    (tmp_path / "junk.pem").write_text("no certificate")
    with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
        server_context(missing, None)
    with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
        server_context(pem, missing)
    for certificate, key in ((tmp_path / "junk.pem", None), (pem, other)):
        with pytest.raises(ValueError, match=rf"{certificate.name} .* do not hold a PEM certificate"):
            server_context(certificate, key)
    assert server_context(pem, None).minimum_version


def test_an_encrypted_private_key_is_refused_in_one_line_and_asks_for_no_password(
    authority: trustme.CA, tmp_path: Path
) -> None:
    issued = authority.issue_cert("127.0.0.1")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    pem, format_ = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    encryption = serialization.BestAvailableEncryption(b"password")
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, format_, encryption))
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    with pytest.raises(ValueError, match=r"key\.pem is encrypted. Give a private key without a password"):
        server_context(tmp_path / "certificate.pem", tmp_path / "key.pem")
