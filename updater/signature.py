"""Signatures as minisign makes them, and the keys that a node trusts.

Only the prehashed kind ("ED", what minisign makes by default) is taken: the signed bytes are the
BLAKE2b-512 hash of the file. The trusted comment is signed too, but nothing here depends on it.

Format: https://jedisct1.github.io/minisign/#signature-format
"""

import base64
import binascii
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from updater.errors import NotNow, Refused

_COMMENT = b"untrusted comment: "
_TRUSTED_COMMENT = b"trusted comment: "
_KEY_KIND = b"Ed"
_SIGNATURE_KIND = b"ED"
LINES = 4  # of a signature file


class PublicKey(NamedTuple):
    """`id` is the 16 hexadecimal digits that minisign shows; `key` has 32 bytes."""

    id: str
    key: bytes

    @classmethod
    def parse(cls, text: bytes, name: str) -> "PublicKey":
        """Read a minisign.pub. Raises Refused where it is none; `name` says which file."""
        data = _decoded(text.strip().splitlines()[-1] if text.strip() else b"", 42, name)
        if data[:2] != _KEY_KIND:
            raise Refused(f"{name} is no minisign public key")
        return cls(_shown(data[2:10]), data[10:])


def read_keys(folder: Path) -> list[PublicKey]:
    """All keys of a folder, NAME.pub each."""
    return [PublicKey.parse(path.read_bytes(), str(path)) for path in sorted(folder.glob("*.pub"))]


def verify(data: bytes, signature: bytes, keys: Iterable[PublicKey], name: str) -> str:
    """Raise Refused unless `signature` is of `data` and by one of `keys`; return that key's id."""
    import hashlib  # which brings OpenSSL along

    from updater.libcrypto import ed25519_verify

    lines = signature.split(b"\n")
    if len(lines) != LINES + 1 or lines[-1] != b"":
        raise NotNow(f"the signature of {name} has {len(lines) - 1} lines, wanted {LINES}")
    comment, first, trusted, second = lines[:LINES]
    if not comment.startswith(_COMMENT) or not trusted.startswith(_TRUSTED_COMMENT):
        raise NotNow(f"the signature of {name} is not in minisign's format")
    packed = _decoded(first, 74, f"the signature of {name}")
    kind, key_id, signed = packed[:2], _shown(packed[2:10]), packed[10:]
    if kind != _SIGNATURE_KIND:
        raise Refused(f"the signature of {name} is of an old kind; sign again without -l")
    by_id = {key.id: key for key in keys}
    if key_id not in by_id:
        known = ", ".join(sorted(by_id)) or "none"
        raise Refused(f"{name} is signed by key {key_id}; trusted are: {known}")
    key = by_id[key_id].key
    if not ed25519_verify(key, hashlib.blake2b(data).digest(), signed):
        raise Refused(f"{name} is not what its signature by key {key_id} is of")
    both = signed + trusted.removeprefix(_TRUSTED_COMMENT)
    if not ed25519_verify(key, both, _decoded(second, 64, f"the signature of {name}")):
        raise Refused(f"the comment in the signature of {name} was changed")
    return key_id


def _decoded(text: bytes, size: int, name: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        data = b""
    if len(data) != size:
        raise Refused(f"{name} is not in minisign's format")
    return data


def _shown(key_id: bytes) -> str:
    return key_id[::-1].hex().upper()
