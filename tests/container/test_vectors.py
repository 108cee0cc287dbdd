"""libcrypto, as the node calls it, on published vectors: all of them right, not some."""

from __future__ import annotations

import ast
import re
import zipfile
from collections.abc import Iterator
from types import ModuleType

import pytest

from builder.core.files import folder_for
from builder.core.paths import CACHE
from builder.sample.wheel import Wheel, download
from updater.libcrypto import chacha20_poly1305_open, ed25519_verify, x25519

WHEEL = Wheel(
    "50.0.2",
    "51641f03a3eb4edbe9fb68e3a3574d25f86aa502d06391fffa886330d02778a0",
    "cryptography-vectors",
)
P = 2**255 - 19


@pytest.fixture(scope="module")
def vectors() -> Iterator[zipfile.ZipFile]:
    path = CACHE / "sample" / f"vectors-{WHEEL.version}"
    if not path.is_dir():
        with folder_for(path) as folder:
            download(WHEEL, folder)
    with zipfile.ZipFile(next(path.glob("*.whl"))) as wheel:
        yield wheel


def text(vectors: zipfile.ZipFile, path: str) -> str:
    return vectors.read(f"cryptography_vectors/{path}").decode()


def records(vectors: zipfile.ZipFile, path: str) -> list[dict[str, str]]:
    """The records of a file: lines `NAME = value`, each record begins with COUNT."""
    found: list[dict[str, str]] = []
    for name, value in re.findall(r"^(\w+) *= *(.*)$", text(vectors, path), re.MULTILINE):
        if name == "COUNT":
            found.append({})
        found[-1][name.upper()] = value.strip()
    return found


def value(shown: str) -> bytes:
    """Hexadecimal digits, or a text in quotes."""
    return ast.literal_eval(shown).encode() if shown.startswith('"') else bytes.fromhex(shown)


def test_ed25519(vectors: zipfile.ZipFile) -> None:
    tried = 0
    for line in text(vectors, "asymmetric/Ed25519/sign.input").splitlines():
        _, public, message, signed = (bytes.fromhex(part) for part in line.split(":")[:4])
        signature = signed[:64]
        assert ed25519_verify(public, message, signature)
        assert not ed25519_verify(public, message + b"x", signature)
        at = tried % 64
        changed = signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]
        assert not ed25519_verify(public, message, changed)
        tried += 1
    assert tried == 1024


def test_x25519(vectors: zipfile.ZipFile) -> None:
    found = records(vectors, "asymmetric/X25519/rfc7748.txt")
    for record in found:
        scalar, point = value(record["INPUT_SCALAR"]), value(record["INPUT_U"])
        assert x25519(scalar, point) == value(record["OUTPUT_U"]), record
    assert len(found) >= 3


def test_chacha20_poly1305(vectors: zipfile.ZipFile) -> None:
    refused = 0
    boringssl = records(vectors, "ciphers/ChaCha20Poly1305/boringssl.txt")
    openssl = records(vectors, "ciphers/ChaCha20Poly1305/openssl.txt")
    assert len(boringssl) > 50 and len(openssl) >= 5
    for record in boringssl + openssl:
        key, nonce = value(record["KEY"]), value(record.get("NONCE", record.get("IV", "")))
        data = value(record.get("CT", record.get("CIPHERTEXT", "")))
        plain = value(record.get("IN", record.get("PLAINTEXT", "")))
        associated = value(record.get("AD", record.get("AAD", "")))
        sealed = data + value(record["TAG"])
        if len(nonce) != 12:  # OpenSSL fills up shorter ones: no RFC has that
            with pytest.raises(ValueError, match="nonce of 12"):
                chacha20_poly1305_open(key, nonce, sealed, associated)
            continue
        opened = chacha20_poly1305_open(key, nonce, sealed, associated)
        if "RESULT" in record or len(record["TAG"]) != 32:
            refused += opened is None
            continue
        assert opened == plain, record
        assert chacha20_poly1305_open(key, nonce, sealed, associated + b"x") is None
    assert refused


def test_hkdf(vectors: zipfile.ZipFile, age: ModuleType) -> None:
    for record in records(vectors, "KDF/rfc-5869-HKDF-SHA256.txt"):
        made = age.hkdf(*(value(record[name]) for name in ("IKM", "SALT", "INFO")))
        assert made == value(record["OKM"])[:32]


@pytest.mark.parametrize(
    ("y", "other"),
    [
        (1, P + 1),
        (0, P),
        (1, 1 | 1 << 255),  # x is 0, and negative
        (P - 1, P - 1 | 1 << 255),
    ],
)
def test_only_the_one_encoding_of_a_key_counts(y: int, other: int) -> None:
    """Points of an order up to 4: each is a key that this signature of some messages fits."""
    signature = (1).to_bytes(32, "little") + bytes(32)
    messages = [b"%d" % number for number in range(100)]

    def fits(key: int) -> int:
        encoded = key.to_bytes(32, "little")
        return sum(ed25519_verify(encoded, message, signature) for message in messages)

    assert fits(y) > 0
    assert fits(other) == 0
