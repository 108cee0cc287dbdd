"""A site's secrets: what age's format allows is opened, and all that it forbids is refused."""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Callable
from types import ModuleType

import pyrage
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

OWNER = pyrage.x25519.Identity.generate()
FILE_KEY = bytes(range(16))
RAW = serialization.Encoding.Raw, serialization.PublicFormat.Raw
LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def base64ed(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def derived(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(key)


def stanza(file_key: bytes = FILE_KEY) -> tuple[bytes, bytes]:
    """The share and the wrapped file key of a stanza for the owner."""
    number = 0
    for letter in str(OWNER.to_public())[len("age1") : -6]:
        number = number << 5 | LETTERS.index(letter)
    public = (number >> 4).to_bytes(32, "big")
    ephemeral = X25519PrivateKey.generate()
    share = ephemeral.public_key().public_bytes(*RAW)
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    key = derived(shared, share + public, b"age-encryption.org/v1/X25519")
    return share, ChaCha20Poly1305(key).encrypt(bytes(12), file_key, None)


def sealed(stanzas: bytes, footer: Callable[[bytes], bytes] = lambda mac: b" " + mac) -> bytes:
    """An age file whose MAC is right, whatever its header looks like; `secret` is its content."""
    header = b"age-encryption.org/v1\n" + stanzas + b"---"
    mac = hmac.digest(derived(FILE_KEY, b"", b"header"), header, "sha256")
    return header + footer(base64ed(mac)) + b"\n" + payload([(b"secret", True)])


def payload(chunks: list[tuple[bytes, bool]]) -> bytes:
    """Chunks with whether each is marked as the last."""
    salt = os.urandom(16)
    cipher = ChaCha20Poly1305(derived(FILE_KEY, salt, b"payload"))
    return salt + b"".join(
        cipher.encrypt(number.to_bytes(11, "big") + bytes([last]), chunk, None)
        for number, (chunk, last) in enumerate(chunks)
    )


def lines(share: bytes | None = None, wrapped: bytes | None = None) -> bytes:
    of = stanza()
    return b"-> X25519 %s\n%s\n" % (base64ed(share or of[0]), base64ed(wrapped or of[1]))


@pytest.mark.parametrize(
    "extra",
    [
        b"",
        b"-> grease\n\n",
        b"-> grease !~ x\n" + b"A" * 64 + b"\n\n",
        b"-> x25519 short\nAAAA\n",
        b"-> kind AAAA 18\n" + b"A" * 64 + b"\nAAAA\n",
    ],
)
def test_stanzas_of_other_kinds_are_passed_over(age: ModuleType, extra: bytes) -> None:
    for header in (extra + lines(), lines() + extra):
        assert age.decrypt(sealed(header), str(OWNER)) == b"secret"
        assert pyrage.decrypt(sealed(header), [OWNER]) == b"secret"


def changed_letter(text: bytes) -> bytes:
    """The same bytes in base64, with bits set that stand for nothing: not the one spelling."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return text[:-1] + bytes([alphabet[alphabet.index(text[-1:]) + 1]])


@pytest.mark.parametrize(
    "extra",
    [
        b"->\nAAAA\n",
        b"-> \nAAAA\n",
        b"-> two  spaces\nAAAA\n",
        b"-> end \nAAAA\n",
        b"->grease\nAAAA\n",
        b"-> gr\x7fease\nAAAA\n",
        b"-> gr\xc3\xa4sse\nAAAA\n",
        b"-> return\r\nAAAA\n",
        b"-> grease\n",
        b"-> grease\n" + b"A" * 64 + b"\n",
        b"-> grease\n" + b"A" * 65 + b"\n\n",
        b"-> grease\nAAA=\n",
        b"-> grease\nAAB\n",
        b"-> grease\nAA A\n",
        b"-> grease\nA\n",
        b"-> grease\nAAAA\nAAAA\n",
        b"-> scrypt AAAA 18\nAAAA\n",
        b"grease\n",
        b"\n",
    ],
)
def test_headers_that_the_format_forbids_are_refused(age: ModuleType, extra: bytes) -> None:
    for header in (extra + lines(), lines() + extra):
        with pytest.raises(age.NotForUs, match="header is damaged"):
            age.decrypt(sealed(header), str(OWNER))


def test_stanzas_for_x25519_keys_have_one_form(age: ModuleType) -> None:
    share, wrapped = stanza()
    order_8 = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
    head, body = lines(share, wrapped).splitlines()
    for header in (
        head + b" more\n" + body + b"\n",
        head + b"=\n" + body + b"\n",
        changed_letter(head) + b"\n" + body + b"\n",
        head + b"\n" + changed_letter(body) + b"\n",
        lines(share[:31], wrapped),
        lines(b"\0" + share, wrapped),
        lines(share, wrapped[:-1]),
        lines(share, stanza(bytes(17))[1]),
        lines(bytes(32), wrapped),
        lines(order_8, wrapped),
        b"-> X25519\n" + body + b"\n",
    ):
        with pytest.raises(age.NotForUs, match="header is damaged"):
            age.decrypt(sealed(header + lines()), str(OWNER))


def test_the_end_of_the_header_has_one_form(age: ModuleType) -> None:
    for footer in (
        lambda mac: mac,
        lambda mac: b"  " + mac,
        lambda mac: b" " + mac + b" ",
        lambda mac: b" " + mac + b"\r",
        lambda mac: b" " + mac + b"=",
        lambda mac: b" " + changed_letter(mac),
        lambda mac: b" " + mac[:-4],
        lambda mac: b"",
    ):
        with pytest.raises(age.NotForUs, match="header is damaged"):
            age.decrypt(sealed(lines(), footer), str(OWNER))
    with pytest.raises(age.NotForUs, match="header was changed"):
        age.decrypt(sealed(lines(), lambda mac: b" " + base64ed(bytes(32))), str(OWNER))


def test_payloads_are_whole(age: ModuleType) -> None:
    """Chunks are full but for the last, which is marked, and empty only where it is the first."""
    whole = sealed(lines())
    head = whole[: whole.index(b"\n", whole.index(b"\n---") + 1) + 1]
    full = bytes(age.CHUNK)
    for good in ([(b"", True)], [(full, True)], [(full, False), (b"x", True)]):
        want = b"".join(chunk for chunk, _ in good)
        assert age.decrypt(head + payload(good), str(OWNER)) == want
    for bad in (
        [(full, False)],
        [(full, False), (b"", True)],
        [(full, True), (b"x", True)],
        [(b"x", False), (b"y", True)],
        [(b"x", False)],
    ):
        with pytest.raises(age.NotForUs, match="damaged or cut off"):
            age.decrypt(head + payload(bad), str(OWNER))
    with pytest.raises(age.NotForUs, match="damaged or cut off"):
        age.decrypt(head + payload([(b"secret", True)]) + b"x", str(OWNER))
    for short in (b"", bytes(15), bytes(31)):
        with pytest.raises(age.NotForUs, match="cut off"):
            age.decrypt(head + short, str(OWNER))


def test_a_key_with_a_slip_is_no_key(age: ModuleType) -> None:
    key = str(OWNER)
    data = pyrage.encrypt(b"x", [OWNER.to_public()])
    assert age.decrypt(data, f"# crag-1\n  {key.lower()} \n") == b"x"
    slip = key[:-10] + ("Q" if key[-10] != "Q" else "P") + key[-9:]
    for wrong in ("", "x", slip, key[:-1], key + "Q", key[:-7] + "B" + key[-6:], key[:18]):
        with pytest.raises(age.NotForUs, match="no private age key"):
            age.decrypt(data, wrong)
