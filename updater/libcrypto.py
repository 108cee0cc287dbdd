"""The node's own OpenSSL, by ctypes: signatures, key agreement and sealed data.

Python needs libcrypto itself, so a node has it in any case, and no package more. Its calls leave
errors behind which Python's `ssl` would take for its own: each is cleared.

Functions: https://docs.openssl.org/3.0/man7/crypto/. Algorithms: RFC 8032 (Ed25519), RFC 7748
(X25519), RFC 8439 (ChaCha20-Poly1305).
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_void_p
from typing import Any

from updater.errors import UpdateError

_NAME = "libcrypto.so.3"
_X25519, _ED25519 = 1034, 1087  # NID_X25519 and NID_ED25519 of openssl/obj_mac.h
_SET_TAG = 0x11  # EVP_CTRL_AEAD_SET_TAG of openssl/evp.h
_TAG_BYTES = 16
_P = 2**255 - 19  # the field of the curve

try:
    _library = ctypes.CDLL(_NAME)
except OSError as error:
    raise UpdateError(
        f"{_NAME} is wanted, a part of OpenSSL 3, and can't be used: {error}"
    ) from None


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """A function with its types: without them ctypes cuts pointers to 32 bits."""
    function = _library[name]
    function.restype, function.argtypes = result, arguments
    return function


_clear_errors = _function("ERR_clear_error", None)
_free_key = _function("EVP_PKEY_free", None, c_void_p)
_new_public = _function(
    "EVP_PKEY_new_raw_public_key", c_void_p, c_int, c_void_p, c_char_p, c_size_t
)
_new_private = _function(
    "EVP_PKEY_new_raw_private_key", c_void_p, c_int, c_void_p, c_char_p, c_size_t
)
_new_digest = _function("EVP_MD_CTX_new", c_void_p)
_free_digest = _function("EVP_MD_CTX_free", None, c_void_p)
_verify_init = _function(
    "EVP_DigestVerifyInit", c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p
)
_verify = _function("EVP_DigestVerify", c_int, c_void_p, c_char_p, c_size_t, c_char_p, c_size_t)
_new_agreement = _function("EVP_PKEY_CTX_new", c_void_p, c_void_p, c_void_p)
_free_agreement = _function("EVP_PKEY_CTX_free", None, c_void_p)
_derive_init = _function("EVP_PKEY_derive_init", c_int, c_void_p)
_derive_peer = _function("EVP_PKEY_derive_set_peer", c_int, c_void_p, c_void_p)
_derive = _function("EVP_PKEY_derive", c_int, c_void_p, c_char_p, POINTER(c_size_t))
_new_cipher = _function("EVP_CIPHER_CTX_new", c_void_p)
_free_cipher = _function("EVP_CIPHER_CTX_free", None, c_void_p)
_chacha20_poly1305 = _function("EVP_chacha20_poly1305", c_void_p)
_open_init = _function(
    "EVP_DecryptInit_ex", c_int, c_void_p, c_void_p, c_void_p, c_char_p, c_char_p
)
_control = _function("EVP_CIPHER_CTX_ctrl", c_int, c_void_p, c_int, c_int, c_char_p)
_open_more = _function(
    "EVP_DecryptUpdate", c_int, c_void_p, c_char_p, POINTER(c_int), c_char_p, c_int
)
_open_end = _function("EVP_DecryptFinal_ex", c_int, c_void_p, c_char_p, POINTER(c_int))


def ed25519_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) of `message` was made by the key (32 bytes).

    Only the one encoding of a key counts; OpenSSL alone takes others too (RFC 8032, 5.1.3).
    """
    if len(public_key) != 32 or len(signature) != 64 or not _is_canonical(public_key):
        return False
    key = _new_public(_ED25519, None, public_key, 32)
    context = _new_digest()
    try:
        return bool(
            key
            and context
            and _verify_init(context, None, None, None, key) == 1
            and _verify(context, signature, 64, message, len(message)) == 1
        )
    finally:
        _free_digest(context)
        _free_key(key)
        _clear_errors()


def _is_canonical(point: bytes) -> bool:
    encoded = int.from_bytes(point, "little")
    sign, y = encoded >> 255, encoded & (1 << 255) - 1
    return y < _P and not (sign and y in (1, _P - 1))  # there x is 0, which has no sign


def x25519(private_key: bytes, public_key: bytes) -> bytes | None:
    """The secret (32 bytes) that two keys of 32 bytes share; None for a point of low order."""
    if len(private_key) != 32 or len(public_key) != 32:
        raise ValueError("X25519: wanted two keys of 32 bytes")
    own = _new_private(_X25519, None, private_key, 32)
    peer = _new_public(_X25519, None, public_key, 32)
    context = _new_agreement(own, None) if own else None
    shared, size = ctypes.create_string_buffer(32), c_size_t(32)
    try:
        done = (
            context
            and peer
            and _derive_init(context) == 1
            and _derive_peer(context, peer) == 1
            and _derive(context, shared, size) == 1
        )
        return shared.raw if done else None
    finally:
        _free_agreement(context)
        _free_key(peer)
        _free_key(own)
        _clear_errors()


def chacha20_poly1305_open(
    key: bytes, nonce: bytes, sealed: bytes, associated: bytes = b""
) -> bytes | None:
    """What was sealed, its tag (16 bytes) at the end; None where it is not genuine.

    `key` has 32 bytes, `nonce` 12; `associated` is data that was sealed without being hidden.
    """
    if len(key) != 32 or len(nonce) != 12:
        raise ValueError("ChaCha20-Poly1305: wanted a key of 32 bytes and a nonce of 12")
    data, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
    if len(tag) != _TAG_BYTES:
        return None
    context = _new_cipher()
    plain, size = ctypes.create_string_buffer(len(data) + 1), c_int()
    try:
        done = (
            context
            and _open_init(context, _chacha20_poly1305(), None, key, nonce) == 1
            and _control(context, _SET_TAG, _TAG_BYTES, tag) == 1
            and _open_more(context, None, size, associated, len(associated)) == 1
            and _open_more(context, plain, size, data, len(data)) == 1
            and _open_end(context, None, size) == 1
        )
        return plain.raw[: len(data)] if done else None
    finally:
        _free_cipher(context)
        _clear_errors()
