"""What a server has for nodes: channels and releases. Both are signed; nothing is read before that.

A *channel* (`channels/NAME`) is one file of five lines: a JSON object, and minisign's signature of
that line. So pointer and signature can't disagree.

A *release* is `releases/VERSION/manifest.json` with `manifest.json.minisig` beside it. It names
blobs (`blobs/SHA256`). The slot image lies in one blob as chunks: pieces of `CHUNK` bytes of it,
each compressed by itself as an .xz, and named by hash, offset and size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from updater.errors import Refused
from updater.signature import PublicKey, verify

FORMAT = 1
CHUNK = 2 << 20
CHUNK_PACKED_MAX = CHUNK + (64 << 10)  # what doesn't compress gets a little larger
PIECE_MAX = CHUNK_PACKED_MAX + (1 << 20)  # with all the ranges that it may have
CHANNEL_SIZE_MAX = 16 << 10
MANIFEST_SIZE_MAX = 4 << 20
SIGNATURE_SIZE_MAX = 2 << 10
SLOT_SIZE_MAX = 1 << 40
# What may be part of a path or a URL.
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
VERSION = re.compile(
    r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})(-[0-9a-z.]{1,32})?"
)
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Channel:
    """Which release a channel points to. Times are seconds since 1970, UTC.

    `manifest` is the SHA-256 of that release's manifest. `downgrade` orders nodes to take it
    though it may be older than what they run.
    """

    os: str
    channel: str
    version: str
    manifest: str
    signed: int
    expires: int
    downgrade: bool = False
    format: int = FORMAT


@dataclass(frozen=True)
class Blob:
    """An immutable file of the server, by SHA-256; `size` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Chunk:
    """`sha256` is of the unpacked bytes; `size` bytes of the blob, from `offset`, are the .xz."""

    sha256: str
    offset: int
    size: int


class Piece(NamedTuple):
    """`size` bytes of a delta's blob, from `offset`; none of them: the whole chunk is fetched."""

    offset: int
    size: int


class StreamPiece(NamedTuple):
    """The same for `unpacked` bytes of what a stream holds."""

    offset: int
    size: int
    unpacked: int


@dataclass(frozen=True)
class Stream:
    """`size` compressed bytes at `at`, which nodes pack themselves (updater/streams.py).

    `source` is where the same part of the older slot lies, if it is of use.
    """

    at: int
    size: int
    packer: str
    source: tuple[Piece, ...]
    pieces: tuple[StreamPiece, ...]


@dataclass(frozen=True)
class Delta:
    """How nodes that run the release `version` make chunks from its slot (updater/delta.py).

    That slot image has `size` bytes. There is a piece for each chunk.
    """

    version: str
    size: int
    blob: Blob
    pieces: tuple[Piece, ...]
    streams: tuple[Stream, ...] = ()


@dataclass(frozen=True)
class SlotImage:
    """The bytes of a slot: `size` of them, with that hash, and in which chunks they travel."""

    sha256: str
    size: int
    blob: Blob
    chunks: tuple[Chunk, ...]
    deltas: tuple[Delta, ...] = ()

    def chunk_size(self, at: int) -> int:
        """The bytes of chunk number `at`, unpacked: the last one may be shorter."""
        return min(CHUNK, self.size - at * CHUNK)


@dataclass(frozen=True)
class Manifest:
    """A release. `built` is the time of its commit, in seconds since 1970."""

    os: str
    arch: str
    version: str
    built: int
    slot: SlotImage
    files: dict[str, Blob]  # what else belongs to it: disk image, SBOM, lock, changes
    format: int = FORMAT


def render(item: Channel | Manifest) -> bytes:
    """As one line of JSON."""
    return json.dumps(asdict(item), separators=(",", ":")).encode() + b"\n"


def open_channel(data: bytes, keys: Iterable[PublicKey], name: str) -> tuple[Channel, str]:
    """Verify and read the channel file of channel `name`; the id of the key that signed it, too.

    Raises Refused.
    """
    what = f"channel {name}"
    line, _, signature = data.partition(b"\n")
    line += b"\n"
    key = verify(line, signature, keys, what)
    fields = _Fields(_json(line, what), what)
    fields.number("format", FORMAT, FORMAT)
    channel = Channel(
        os=fields.text("os", NAME_PATTERN),
        channel=fields.text("channel", NAME_PATTERN),
        version=fields.text("version", VERSION),
        manifest=fields.text("manifest", SHA256),
        signed=fields.number("signed"),
        expires=fields.number("expires"),
        downgrade=fields.boolean("downgrade"),
    )
    if channel.channel != name:
        raise Refused(f"channel {name}: the server gave channel {channel.channel} instead")
    return channel, key


def open_manifest(data: bytes, signature: bytes, keys: Iterable[PublicKey], name: str) -> Manifest:
    """Verify and read a manifest; `name` says which, in errors. Raises Refused."""
    verify(data, signature, keys, name)
    fields = _Fields(_json(data, name), name)
    fields.number("format", FORMAT, FORMAT)
    slot = fields.inner("slot")
    size = slot.number("size", 1, SLOT_SIZE_MAX)
    blob = _blob(slot.inner("blob"))
    chunks = tuple(
        Chunk(
            chunk.text("sha256", SHA256),
            chunk.number("offset", 0, blob.size),
            chunk.number("size", 1, min(blob.size, CHUNK_PACKED_MAX)),
        )
        for chunk in slot.several("chunks")
    )
    if len(chunks) != -(-size // CHUNK):
        raise Refused(f"{name}: {len(chunks)} chunks are not those of {size} bytes")
    if any(chunk.offset + chunk.size > blob.size for chunk in chunks):
        raise Refused(f"{name}: a chunk lies outside of its blob")
    files = fields.inner("files")
    return Manifest(
        os=fields.text("os", NAME_PATTERN),
        arch=fields.text("arch", NAME_PATTERN),
        version=fields.text("version", VERSION),
        built=fields.number("built"),
        slot=SlotImage(
            slot.text("sha256", SHA256), size, blob, chunks, tuple(_deltas(slot, len(chunks)))
        ),
        files={
            file: _blob(files.inner(file)) for file in files.values if NAME_PATTERN.fullmatch(file)
        },
    )


def _deltas(slot: _Fields, chunks: int) -> Iterator[Delta]:
    """The deltas that make sense here: without one, a node takes whole chunks."""
    found = slot.values.get("deltas")
    for values in found if isinstance(found, list) else ():
        with suppress(Refused):
            fields = _Fields(values, f"{slot.name}: deltas")
            blob = _blob(fields.inner("blob"))
            pieces = tuple(Piece(*row) for row in fields.rows("pieces", 2, blob.size))
            if len(pieces) == chunks and all(_is_in(blob, piece) for piece in pieces):
                yield Delta(
                    fields.text("version", VERSION),
                    fields.number("size", 1, SLOT_SIZE_MAX),
                    blob,
                    pieces,
                    tuple(_streams(fields, blob)),
                )


def _is_in(blob: Blob, piece: Piece | StreamPiece) -> bool:
    return piece.size <= PIECE_MAX and piece.offset + piece.size <= blob.size


def _streams(delta: _Fields, blob: Blob) -> Iterator[Stream]:
    for fields in delta.several("streams"):
        source = tuple(Piece(*row) for row in fields.rows("source", 2, SLOT_SIZE_MAX))
        pieces = [StreamPiece(*row) for row in fields.rows("pieces", 3, blob.size)]
        if len(source) > 1 or not all(_is_in(blob, p) and p.unpacked <= CHUNK for p in pieces):
            raise Refused(f"{fields.name}: a stream makes no sense")
        yield Stream(
            fields.number("at", 0, SLOT_SIZE_MAX),
            fields.number("size", 1, SLOT_SIZE_MAX),
            fields.text("packer", NAME_PATTERN),
            source,
            tuple(pieces),
        )


def version_key(version: str) -> tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]:
    """Orders versions as Semantic Versioning 2.0.0 does: 1.9.0 < 1.10.0-rc.1 < 1.10.0."""
    numbers, _, rest = version.partition("-")
    parts = tuple(
        (not part.isdigit(), int(part) if part.isdigit() else 0, part)
        for part in rest.split(".")
        if rest
    )
    return tuple(int(number) for number in numbers.split(".")), not rest, parts


def _blob(fields: _Fields) -> Blob:
    return Blob(fields.text("sha256", SHA256), fields.number("size", 1, SLOT_SIZE_MAX))


def _json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Refused(f"{name}: the signed file is no JSON") from None


class _Fields:
    """The fields of a JSON object, each checked as it is read. Raises Refused."""

    def __init__(self, values: Any, name: str) -> None:
        if not isinstance(values, dict):
            raise Refused(f"{name}: wanted a JSON object")
        self.values: dict[str, Any] = values
        self.name = name

    def text(self, field: str, pattern: re.Pattern[str]) -> str:
        value = self.values.get(field)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self._wrong(field)
        return value

    def number(self, field: str, least: int = 0, most: int = 1 << 62) -> int:
        value = self.values.get(field)
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(field)
        return value

    def boolean(self, field: str) -> bool:
        value = self.values.get(field)
        if not isinstance(value, bool):
            raise self._wrong(field)
        return value

    def inner(self, field: str) -> _Fields:
        return _Fields(self.values.get(field), f"{self.name}: {field}")

    def several(self, field: str) -> list[_Fields]:
        value = self.values.get(field)
        if not isinstance(value, list):
            raise self._wrong(field)
        return [_Fields(item, f"{self.name}: {field}") for item in value]

    def rows(self, field: str, length: int, most: int) -> list[list[int]]:
        """A list of lists of `length` numbers from 0 to `most`."""
        value = self.values.get(field)
        if not isinstance(value, list) or not all(
            isinstance(row, list)
            and len(row) == length
            and all(type(number) is int and 0 <= number <= most for number in row)
            for row in value
        ):
            raise self._wrong(field)
        return value

    def _wrong(self, field: str) -> Refused:
        value = repr(self.values.get(field))
        return Refused(f"{self.name}: {field} is {value[:80]}, which makes no sense there")
