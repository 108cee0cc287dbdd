"""Makes what mkinitfs made the same every time, and compresses it."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.core.files import gzipped

NET_INITRAMFS = "initramfs-net"
LEVEL = 4  # a better one costs more time than it saves anybody
CPIO_MAGIC = b"070701"
_HEADER = 110
_TRAILER = "TRAILER!!!"


def pack_initramfs(folder: Path, inputs: Mapping[str, Path]) -> None:
    """Replace the cpio `folder/initramfs` by its reproducible, gzipped form, after microcode."""
    path = folder / "initramfs"
    data = bytearray(path.read_bytes())
    normalise(data)
    path.write_bytes(inputs["microcode"].read_bytes() + gzipped(bytes(data), LEVEL))


def pack_net_initramfs(folder: Path, inputs: Mapping[str, Path]) -> None:
    """The same for the initramfs of a boot from the network, under its own name."""
    pack_initramfs(folder, inputs)
    (folder / "initramfs").rename(folder / NET_INITRAMFS)


@dataclass(frozen=True)
class CpioEntry:
    """A file in a cpio: its header begins at byte `at`, its bytes at `data_at`."""

    at: int
    name: str
    mode: int  # type and permission bits, as in os.stat
    owner: str  # uid/gid
    data_at: int
    size: int


def cpio_entries(cpio: bytearray) -> Iterator[CpioEntry]:
    """Every file of a newc cpio, and the trailer. ValueError where it is none.

    Format: https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
    """
    at = 0
    while True:
        if cpio[at : at + 6] != CPIO_MAGIC:
            raise ValueError(f"no cpio header at byte {at}")
        numbers = [int(cpio[column : column + 8], 16) for column in range(at + 6, at + _HEADER, 8)]
        mode, uid, gid, size, name_size = (numbers[i] for i in (1, 2, 3, 6, 11))
        name = cpio[at + _HEADER : at + _HEADER + name_size - 1].decode(errors="surrogateescape")
        data_at = at + _HEADER + name_size
        data_at += -data_at % 4
        yield CpioEntry(at, name, mode, f"{uid}/{gid}", data_at, size)
        if name == _TRAILER:
            return
        at = data_at + size
        at += -at % 4


def initramfs_parts(data: bytes) -> Iterator[bytes]:
    """The cpios of an initramfs: those of microcode, which are not compressed, and the last one."""
    *begins, packed_at = cpio_begins(data)
    yield from (data[at:] for at in begins)
    yield gzip.decompress(data[packed_at:])


def cpio_begins(data: bytes) -> Iterator[int]:
    """Where each of them begins; the last one is compressed."""
    at = 0
    while data[at : at + 6] == CPIO_MAGIC:
        *_, trailer = cpio_entries(bytearray(data[at:]))
        yield at
        at += trailer.data_at + trailer.size
        at += len(data) - at - len(data[at:].lstrip(b"\0"))
    yield at


def normalise(cpio: bytearray) -> None:
    """Set times and device numbers to 0 in every header. ValueError where it is no newc cpio."""
    zeros = b"0" * 8
    for entry in cpio_entries(cpio):
        cpio[entry.at + 46 : entry.at + 54] = zeros  # mtime
        cpio[entry.at + 62 : entry.at + 78] = zeros * 2  # numbers of the device it lay on
