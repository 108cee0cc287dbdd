"""Notes the hash of the largest part beside it, so that other changes don't need it again."""

from __future__ import annotations

import hashlib
from pathlib import Path


def note_hash(folder: Path) -> None:
    """Write the SHA-256 of `modloop.squashfs` to `modloop.sha256`."""
    digest = hashlib.sha256()
    with (folder / "modloop.squashfs").open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    (folder / "modloop.sha256").write_text(f"{digest.hexdigest()}\n")
