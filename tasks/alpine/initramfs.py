"""Makes what mkinitfs made the same every time, and compresses it."""

from __future__ import annotations

import gzip
from pathlib import Path

LEVEL = 4  # a better one costs more time than it saves anybody
_MAGIC = b"070701"
_HEADER = 110
_TRAILER = b"TRAILER!!!"


def pack_initramfs(folder: Path) -> None:
    """Replace the cpio `folder/initramfs` by its reproducible, gzipped form."""
    path = folder / "initramfs"
    data = bytearray(path.read_bytes())
    normalise(data)
    path.write_bytes(gzip.compress(bytes(data), LEVEL, mtime=0))


def normalise(cpio: bytearray) -> None:
    """Set times and device numbers to 0 in every header. ValueError where it is no newc cpio.

    Format: https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
    """
    at, zeros = 0, b"0" * 8
    while True:
        if cpio[at : at + 6] != _MAGIC:
            raise ValueError(f"no cpio header at byte {at}")
        name_size, size = int(cpio[at + 94 : at + 102], 16), int(cpio[at + 54 : at + 62], 16)
        cpio[at + 46 : at + 54] = zeros  # mtime
        cpio[at + 62 : at + 78] = zeros * 2  # major and minor number of the device it lay on
        name = cpio[at + _HEADER : at + _HEADER + name_size - 1]
        if name == _TRAILER:
            return
        at += _HEADER + name_size
        at += -at % 4
        at += size
        at += -at % 4
