"""Offline packages: a repository on the slot, from which `apk add` works without a network.

Its index is signed with a key of the project's own; the public half is in the image. The packages
keep Alpine's signatures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from builder.alpine.apk_format import INDEX, installed_record, lines_of
from builder.core.errors import UserError
from builder.core.files import write_atomically, write_private
from builder.core.paths import PROJECT, private_keys

AVAILABLE = "available"  # what the lock calls the packages of the node and the offline ones
TRUSTED_KEYS = PROJECT / "rootfs" / "overlay" / "lib" / "apk" / "keys"
_PATTERN = "belay-*.rsa.pub"
_BITS = 4096


def new_key(public: Path = TRUSTED_KEYS) -> tuple[Path, Path]:
    """Make the key that signs the index; its private and its public file."""
    if found := sorted(public.glob(_PATTERN)):
        raise UserError(f"{found[0]} exists already: images trust that key")
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    private = rsa.generate_private_key(public_exponent=65537, key_size=_BITS)
    data = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    # apk finds a key by its file's name, so no two may have the same.
    name = f"belay-{hashlib.sha256(data).hexdigest()[:8]}.rsa"
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(private_keys() / name, pem)
    public.mkdir(parents=True, exist_ok=True)
    write_atomically(public / f"{name}.pub", data)
    return private_keys() / name, public / f"{name}.pub"


def key_file(public: Path = TRUSTED_KEYS) -> Path:
    """The private key whose public half the image has. Raises UserError where there is none."""
    found = sorted(public.glob(_PATTERN))
    if not found:
        raise UserError(
            "available in [alpine] of image.toml: offline packages need a key that signs their "
            "index",
            "make it: ./inv key.packages",
        )
    private = private_keys() / found[0].stem
    if not private.exists():
        raise UserError(f"{private} is missing: the key of {found[0]}", "bring it from its copy")
    return private


def write_repository_index(folder: Path, paths: Mapping[str, Path]) -> None:
    """Write the signed index of the packages in `paths["packages"]` to `folder`."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from builder.alpine.apk_writer import SigningKey, write_index

    private = load_pem_private_key(paths["key"].read_bytes(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    key = SigningKey(f"{paths['key'].name}.pub", private)
    index = []
    for package in sorted(paths["packages"].glob("*.apk")):
        data = package.read_bytes()
        fields = dict(line.split(":", 1) for line in lines_of(installed_record(data)))
        index.append({**fields, "S": str(len(data))})
    (folder / INDEX).write_bytes(write_index(index, key, "Offline packages"))
