"""Decrypts age files for X25519 keys: nodes have no age, but Belay's updater and its libcrypto.

Format: https://age-encryption.org/v1. What that forbids is refused, though it could be read.
"""

from __future__ import annotations

import binascii
import hmac
import sys

sys.path.append("/usr/lib/belay")  # behind all others: a checkout brings its own

from updater.libcrypto import chacha20_poly1305_open, x25519

CHUNK = 64 * 1024
TAG = 16
LINE = 64  # columns of a stanza's body; the last line of one has fewer
_BASE_POINT = (9).to_bytes(32, "little")
_LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_PREFIX = "age-secret-key-"


class NotForUs(Exception):
    """The file is damaged, or for another key; says which."""


def decrypt(data: bytes, identity: str) -> bytes:
    """The content of an age file, by the private key `identity`. Raises NotForUs."""
    key = _secret(identity)
    header, stanzas, mac, body = _parsed(data)
    for ephemeral, wrapped in stanzas:
        file_key = _unwrap(key, ephemeral, wrapped)
        if file_key is not None:
            wanted = hmac.digest(hkdf(file_key, b"", b"header"), header, "sha256")
            if not hmac.compare_digest(mac, wanted):
                raise NotForUs("its header was changed")
            return _payload(hkdf(file_key, body[:16], b"payload"), body[16:])
    raise NotForUs("it is encrypted for another node")


def _parsed(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes, bytes]:
    """The header that is authenticated, its X25519 stanzas, its MAC, and what follows."""
    head, mark, rest = data.partition(b"\n---")
    line, newline, body = rest.partition(b"\n")
    first, *lines = head.split(b"\n")
    if first != b"age-encryption.org/v1" or not mark or not newline or len(body) < 16 + TAG:
        raise NotForUs("it is no age file, or is cut off")
    stanzas, kinds = [], []
    while lines:
        arrow, *words = lines.pop(0).split(b" ")
        if arrow != b"->" or not words or not all(word and _is_visible(word) for word in words):
            raise _damaged()
        text = b""
        while True:
            if not lines or len(lines[0]) > LINE:
                raise _damaged()
            text += lines[0]
            if len(lines.pop(0)) < LINE:
                break
        content = _decoded(text)
        kinds.append(words[0])
        if words[0] == b"X25519":
            if len(words) != 2 or len(content) != 16 + TAG:
                raise _damaged()
            stanzas.append((_decoded(words[1], 32), content))
    if line[:1] != b" " or (b"scrypt" in kinds and len(kinds) > 1):
        raise _damaged()
    return head + mark, stanzas, _decoded(line[1:], 32), body


def _is_visible(word: bytes) -> bool:
    return all(33 <= letter <= 126 for letter in word)


def _unwrap(key: bytes, ephemeral: bytes, wrapped: bytes) -> bytes | None:
    shared, public = x25519(key, ephemeral), x25519(key, _BASE_POINT)
    if shared is None or public is None:  # a point that gives everybody the same secret
        raise _damaged()
    wrap_key = hkdf(shared, ephemeral + public, b"age-encryption.org/v1/X25519")
    return chacha20_poly1305_open(wrap_key, bytes(12), wrapped)


def _payload(key: bytes, body: bytes) -> bytes:
    """The content of a payload: full chunks, and a last one, empty only where it is the first."""
    parts = []
    size = CHUNK + TAG
    last = max(0, (len(body) - 1) // size)
    for number in range(last + 1):
        nonce = number.to_bytes(11, "big") + bytes([number == last])
        part = chacha20_poly1305_open(key, nonce, body[number * size : (number + 1) * size])
        if part is None or (number and not part):
            raise NotForUs("it is damaged or cut off")
        parts.append(part)
    return b"".join(parts)


def _secret(identity: str) -> bytes:
    """The 32 bytes of AGE-SECRET-KEY-1..., which is Bech32 (BIP 173)."""
    lines = [line.strip() for line in identity.splitlines()]
    text = next((line for line in lines if line.lower().startswith(f"{_PREFIX}1")), "")
    text = text.lower() if text.isupper() else text  # one case only, says BIP 173
    values = [_LETTERS.find(letter) for letter in text[len(_PREFIX) + 1 :]]
    # 52 letters of 5 bits are the key and 4 bits of 0; six more are the checksum.
    if len(values) != 58 or -1 in values or not _is_checked(values):
        raise NotForUs("the node's age.key is no private age key")
    number = 0
    for value in values[:52]:
        number = number << 5 | value
    return (number >> 4).to_bytes(32, "big")


def _is_checked(values: list[int]) -> bool:
    """Whether the checksum at the end is right: BIP 173, "Checksum"."""
    prefix = [ord(letter) for letter in _PREFIX]
    check = 1
    for value in [*(x >> 5 for x in prefix), 0, *(x & 31 for x in prefix), *values]:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for bit, mask in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= mask if top >> bit & 1 else 0
    return check == 1


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes by HKDF-SHA-256: RFC 5869."""
    return hmac.digest(hmac.digest(salt or bytes(32), key, "sha256"), info + b"\x01", "sha256")


def _decoded(text: bytes, size: int | None = None) -> bytes:
    """Base64 without padding, of which only the one spelling counts; `size` bytes of it."""
    try:
        data = binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except ValueError:
        raise _damaged() from None
    if binascii.b2a_base64(data, newline=False).rstrip(b"=") != text or size not in (
        None,
        len(data),
    ):
        raise _damaged()
    return data


def _damaged() -> NotForUs:
    return NotForUs("its header is damaged")
