"""Cuts a slot image into compressed chunks (format: updater/formats.py)."""

from __future__ import annotations

import hashlib
import lzma
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tasks.core.cache import mark_used
from tasks.core.files import write_atomically
from tasks.core.paths import CACHE
from updater.formats import CHUNK, Blob, Chunk, SlotImage

PRESET = 6
# A chunk is all that there is to look back at; a larger dictionary only costs the node memory.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": PRESET, "dict_size": CHUNK}]
FORM = f"xz-{PRESET}-1"  # in the cache: changes where the same chunk would be packed differently


def write_chunks(slot: Path, blobs: Path) -> SlotImage:
    """Write the chunks of `slot` as one file to the folder `blobs`, named by its hash."""
    whole, digest = hashlib.sha256(), hashlib.sha256()
    chunks: list[Chunk] = []
    offset = 0
    fresh = blobs / ".partial-slot"
    blobs.mkdir(parents=True, exist_ok=True)
    try:
        with fresh.open("wb") as blob, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for name, packed in pool.map(_packed, _pieces(slot, whole)):
                chunks.append(Chunk(name, offset, len(packed)))
                blob.write(packed)
                digest.update(packed)
                offset += len(packed)
        fresh.chmod(0o644)
        fresh.rename(blobs / digest.hexdigest())
    finally:
        fresh.unlink(missing_ok=True)
    size = slot.stat().st_size
    blob_id = Blob(digest.hexdigest(), offset)
    return SlotImage(whole.hexdigest(), size, blob_id, tuple(chunks))


def _pieces(slot: Path, whole: hashlib._Hash) -> Iterator[bytes]:
    with slot.open("rb") as file:
        while data := file.read(CHUNK):
            whole.update(data)
            yield data


def _packed(data: bytes) -> tuple[str, bytes]:
    """The hash of a chunk and the chunk packed; most are as in the release before."""
    name = hashlib.sha256(data).hexdigest()
    place = CACHE / "chunks" / f"{name}.{FORM}"
    if place.exists():
        mark_used(place)
        return name, place.read_bytes()
    packed = lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=FILTERS)
    write_atomically(place, packed)
    return name, packed
