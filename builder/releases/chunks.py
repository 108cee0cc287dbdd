"""Cuts images into compressed chunks (format: updater/formats.py)."""

from __future__ import annotations

import hashlib
import lzma
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from builder.alpine.archive import Transferred
from builder.core.cache import mark_used
from builder.core.errors import UserError
from builder.core.files import naming, write_atomically, write_sparse
from builder.core.parallel import workers
from builder.core.paths import CACHE
from updater.formats import CHUNK, Blob, Chunk, SlotImage

# What each packed chunk begins with: format, no checksum of its own, and the CRC of that.
STREAM = lzma.compress(b"", lzma.FORMAT_XZ, lzma.CHECK_NONE)[:12]


def write_slot(
    slot: Path, blobs: Path, level: int, transferred: Transferred | None = None
) -> SlotImage:
    """Write the chunks of a slot image as one file to the folder `blobs`, named by its hash.

    They are packed by xz with the preset `level`.
    """
    whole = hashlib.sha256()
    size = slot.stat().st_size
    blob, chunks = _write(_pieces(slot, [0], whole), blobs, size, level, transferred)
    return SlotImage(whole.hexdigest(), size, blob, tuple(chunks))


def write_xz(
    path: Path,
    borders: list[int],
    blobs: Path,
    level: int,
    transferred: Transferred | None = None,
) -> Blob:
    """Write a whole file to `blobs` as an .xz, made of chunks too: most are there already.

    At each of `borders`, where a slot begins, the grid of chunks begins anew.
    """
    pieces = _pieces(path, borders, hashlib.sha256())
    blob, _ = _write(pieces, blobs, path.stat().st_size, level, transferred)
    return blob


def unpack_xz(packed: Path, target: Path) -> None:
    """Unpack what `write_xz` wrote, on all processors; a chunk that is in both slots once.

    Raises UserError where the file isn't what its name says. Half a disk is removed.
    """
    data = packed.read_bytes()
    if hashlib.sha256(data).hexdigest() != packed.name:
        raise UserError(f"{packed} is damaged: its SHA-256 is not its name", "bring it anew")
    _, *streams = data.split(STREAM)
    try:
        with naming(target):
            _write_unpacked(streams, target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _write_unpacked(streams: list[bytes], target: Path) -> None:
    known: dict[bytes, tuple[int, int]] = {}
    count = os.cpu_count() or 1
    with target.open("wb+") as file, ThreadPoolExecutor(count) as pool:
        for start in range(0, len(streams), 2 * count):
            batch = streams[start : start + 2 * count]
            fresh = [stream for stream in dict.fromkeys(batch) if stream not in known]
            pieces = dict(zip(fresh, pool.map(_unpacked, fresh), strict=True))
            for stream in batch:
                if stream in pieces:
                    known[stream] = file.tell(), len(pieces[stream])
                    write_sparse(file, pieces.pop(stream))
                else:
                    here, (offset, size) = file.tell(), known[stream]
                    file.seek(offset)
                    piece = file.read(size).ljust(size, b"\0")  # the file may end in a hole
                    file.seek(here)
                    write_sparse(file, piece)
        file.truncate()


def _unpacked(rest: bytes) -> bytes:
    return lzma.decompress(STREAM + rest)


def _write(
    pieces: Iterator[bytes], blobs: Path, size: int, level: int, transferred: Transferred | None
) -> tuple[Blob, list[Chunk]]:
    """Pack pieces, on all processors, and write them one after the other."""
    digest = hashlib.sha256()
    chunks: list[Chunk] = []
    offset = 0
    blobs.mkdir(parents=True, exist_ok=True)
    with (
        naming(blobs),
        tempfile.NamedTemporaryFile(dir=blobs, prefix=".partial-", delete=False) as blob,
    ):
        fresh = Path(blob.name)
        try:
            with workers() as pool:
                for name, packed in pool.map(partial(_packed, level), pieces):
                    chunks.append(Chunk(name, offset, len(packed)))
                    blob.write(packed)
                    digest.update(packed)
                    offset += len(packed)
                    if transferred:
                        transferred(min(len(chunks) * CHUNK, size), size)
            blob.flush()
            fresh.chmod(0o644)
            fresh.rename(blobs / digest.hexdigest())
        finally:
            fresh.unlink(missing_ok=True)
    return Blob(digest.hexdigest(), offset), chunks


def _pieces(path: Path, borders: list[int], whole: hashlib._Hash) -> Iterator[bytes]:
    ends = [*borders[1:], path.stat().st_size]
    with path.open("rb") as file:
        for end in ends:
            while data := file.read(min(CHUNK, end - file.tell())):
                whole.update(data)
                yield data


def _packed(level: int, data: bytes) -> tuple[str, bytes]:
    """The hash of a chunk and the chunk packed; most are as in the release before."""
    name = hashlib.sha256(data).hexdigest()
    cached = CACHE / "chunks" / f"{name}.xz-{level}-1"
    if cached.exists():
        mark_used(cached)
        return name, cached.read_bytes()
    # A chunk is all that there is to look back at; a larger dictionary only costs the node memory.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": level, "dict_size": CHUNK}]
    packed = lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=filters)
    write_atomically(cached, packed)
    return name, packed
