"""Decrypts age files for X25519 keys, in Python alone: nodes have no age.

Format: https://age-encryption.org/v1. X25519: RFC 7748; ChaCha20-Poly1305: RFC 8439. Nothing here
takes the same time for every key: whoever can measure a node's apply can read its key anyway.
"""

from __future__ import annotations

import base64
import hmac
import struct

CHUNK = 64 * 1024
_P = 2**255 - 19
_LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_PREFIX = "AGE-SECRET-KEY-1"


class NotForUs(Exception):
    """The file is damaged, or for another key; says which."""


def decrypt(data: bytes, identity: str) -> bytes:
    """The content of an age file, by the private key `identity`. Raises NotForUs."""
    header, stanzas, mac, body = _parsed(data)
    key = _secret(identity)
    for ephemeral, wrapped in stanzas:
        file_key = _unwrap(key, ephemeral, wrapped)
        if file_key is not None:
            wanted = hmac.digest(_hkdf(file_key, b"", b"header"), header, "sha256")
            if not hmac.compare_digest(mac, wanted):
                raise NotForUs("its header was changed")
            return _payload(_hkdf(file_key, body[:16], b"payload"), body[16:])
    raise NotForUs("it is encrypted for another node")


def _parsed(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes, bytes]:
    """The header that is authenticated, its X25519 stanzas, its MAC, and what follows."""
    head, mark, rest = data.partition(b"\n---")
    line, newline, body = rest.partition(b"\n")
    lines = head.split(b"\n")
    if lines[0] != b"age-encryption.org/v1" or not mark or not newline or len(body) < 32:
        raise NotForUs("it is no age file, or is cut off")
    stanzas = []
    for at, text in enumerate(lines[:-1]):
        words = text.split(b" ")
        if words[:2] == [b"->", b"X25519"] and len(words) == 3:
            stanzas.append((_decoded(words[2]), _decoded(lines[at + 1])))
    return head + mark, stanzas, _decoded(line.strip()), body


def _unwrap(key: bytes, ephemeral: bytes, wrapped: bytes) -> bytes | None:
    shared = x25519(key, ephemeral)
    public = x25519(key, (9).to_bytes(32, "little"))
    wrap_key = _hkdf(shared, ephemeral + public, b"age-encryption.org/v1/X25519")
    return _open(wrap_key, bytes(12), wrapped)


def _payload(key: bytes, body: bytes) -> bytes:
    parts = []
    size = CHUNK + 16
    last = max(0, (len(body) - 1) // size)
    for number in range(last + 1):
        nonce = number.to_bytes(11, "big") + bytes([number == last])
        part = _open(key, nonce, body[number * size : (number + 1) * size])
        if part is None:
            raise NotForUs("it is damaged or cut off")
        parts.append(part)
    return b"".join(parts)


def _secret(identity: str) -> bytes:
    """The 32 bytes of AGE-SECRET-KEY-1..., which is Bech32 (BIP 173)."""
    lines = [line.strip() for line in identity.splitlines()]
    text = next((line for line in lines if line.startswith(_PREFIX)), "")
    number = 0
    try:
        for letter in text[len(_PREFIX) : -6].lower():
            number = number * 32 + _LETTERS.index(letter)
        return (number >> 4).to_bytes(32, "big")  # 52 letters are 260 bits
    except (ValueError, OverflowError):
        raise NotForUs("the node's age.key is no private age key") from None


def x25519(scalar: bytes, point: bytes) -> bytes:
    """Multiply a point of the curve: RFC 7748, section 5."""
    k = int.from_bytes(scalar, "little") & ~7 & ((1 << 255) - 1) | 1 << 254
    u = int.from_bytes(point, "little") & ((1 << 255) - 1)
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a % _P, c * b % _P, a * a % _P, b * b % _P
        x3, z3 = (da + cb) ** 2 % _P, u * (da - cb) ** 2 % _P
        e = aa - bb
        x2, z2 = aa * bb % _P, e * (aa + 121665 * e) % _P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, _P - 2, _P) % _P).to_bytes(32, "little")


def _hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes by HKDF-SHA-256: RFC 5869."""
    return hmac.digest(hmac.digest(salt or bytes(32), key, "sha256"), info + b"\x01", "sha256")


def _open(key: bytes, nonce: bytes, data: bytes) -> bytes | None:
    """The plain text of ChaCha20-Poly1305, without additional data; None if it is not genuine."""
    sealed, tag = data[:-16], data[-16:]
    if not hmac.compare_digest(tag, _poly1305(_chacha(key, nonce, 0, bytes(32)), sealed)):
        return None
    return _chacha(key, nonce, 1, sealed)


def _poly1305(key: bytes, sealed: bytes) -> bytes:
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    text = sealed + bytes(-len(sealed) % 16) + struct.pack("<QQ", 0, len(sealed))
    total = 0
    for at in range(0, len(text), 16):
        total = (total + int.from_bytes(text[at : at + 16] + b"\x01", "little")) * r % (2**130 - 5)
    return ((total + int.from_bytes(key[16:], "little")) % 2**128).to_bytes(16, "little")


def _chacha(key: bytes, nonce: bytes, counter: int, data: bytes) -> bytes:
    out = bytearray()
    for at in range(0, len(data), 64):
        block = _chacha_block(key, nonce, counter + at // 64)
        out += bytes(a ^ b for a, b in zip(data[at : at + 64], block, strict=False))
    return bytes(out)


def _chacha_block(key: bytes, nonce: bytes, counter: int) -> bytes:
    start = struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce)
    s = list(start)
    rounds = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
    rounds += ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
    for _ in range(10):
        for a, b, c, d in rounds:
            for one, two, three, left in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                s[one] = (s[one] + s[two]) & 0xFFFFFFFF
                mixed = s[three] ^ s[one]
                s[three] = (mixed << left | mixed >> (32 - left)) & 0xFFFFFFFF
    return struct.pack("<16I", *((x + y) & 0xFFFFFFFF for x, y in zip(s, start, strict=True)))


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise NotForUs("its header is damaged") from None
