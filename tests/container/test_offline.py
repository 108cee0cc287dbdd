"""Offline packages: only what a key of the mirror signed gets onto a slot."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from builder.alpine.apk_writer import Draft, Entry, SigningKey, write_package
from builder.core.commands import CommandError
from builder.core.paths import PROJECT
from tests.conftest import InContainer

pytestmark = pytest.mark.container

SCRIPT = PROJECT / "rootfs" / "offline.sh"
FIELDS = {"P": "rope", "V": "1.2-r3", "A": "x86_64", "T": "holds", "t": "1767225600"}


def key(folder: Path | None = None) -> SigningKey:
    """A key of the mirror, which has its public half in `folder`; or of somebody else."""
    made = SigningKey("mirror.rsa.pub", rsa.generate_private_key(65537, 2048))
    if folder:
        folder.mkdir()
        public = made.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (folder / made.name).write_bytes(public)
    return made


def rope(folder: Path, signed_by: SigningKey) -> Path:
    folder.mkdir(exist_ok=True)
    entries = [Entry("usr", 0o755), Entry("usr/rope", 0o755, b"strong" * 1000)]
    path = folder / "rope-1.2-r3.apk"
    path.write_bytes(write_package(Draft(FIELDS, entries), signed_by)[0])
    return folder


def test_a_package_of_the_mirror_is_taken(tmp_path: Path, in_container: InContainer) -> None:
    packages = rope(tmp_path / "packages", key(tmp_path / "keys"))
    in_container(
        "sh in/offline.sh", **{"offline.sh": SCRIPT}, packages=packages, keys=tmp_path / "keys"
    )


def test_a_wrong_signature_is_refused(tmp_path: Path, in_container: InContainer) -> None:
    """That of another key with the same name; one of a key that is not there; damaged bytes."""
    mirror = key(tmp_path / "keys")
    stranger = SigningKey("stranger.rsa.pub", key().private)
    wrong = [rope(tmp_path / "a", key()), rope(tmp_path / "b", stranger)]
    wrong.append(rope(tmp_path / "c", mirror))
    damaged = tmp_path / "c" / "rope-1.2-r3.apk"
    data = bytearray(damaged.read_bytes())
    data[-1000] ^= 1
    damaged.write_bytes(data)
    for packages in wrong:
        with pytest.raises(CommandError, match=r"rope-1\.2-r3\.apk: no key of the mirror signed"):
            in_container(
                "sh in/offline.sh",
                **{"offline.sh": SCRIPT},
                packages=packages,
                keys=tmp_path / "keys",
            )
