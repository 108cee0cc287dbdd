"""Reads and changes the boot state in a disk image."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from builder.core.errors import UserError
from builder.disk.table import read_table
from updater import grubenv
from updater.boot import FILE, find
from updater.contract import PARTITION_ESP
from updater.errors import UpdateError
from updater.grubenv import BootState


class _Esp:
    """The ESP in a disk image, which is read as a node reads its own."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        partition = read_table(file)[PARTITION_ESP]
        self.path, self.offset, self.size = path, partition.offset, partition.size
        self._file = file

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset` of the ESP."""
        self._file.seek(self.offset + offset)
        return self._file.read(size)


def grubenv_offset(disk: Path) -> int:
    """Where grubenv lies on a disk, in bytes. Raises UserError where there is none."""
    with disk.open("rb") as file:
        esp = _Esp(disk, file)
        try:
            return esp.offset + find(esp, FILE)
        except UpdateError as error:
            raise UserError(str(error)) from None


def read_boot_state(disk: Path) -> BootState:
    """The boot state of a disk."""
    with disk.open("rb") as file:
        file.seek(grubenv_offset(disk))
        return grubenv.parse(file.read(grubenv.SIZE))


def write_boot_state(disk: Path, state: BootState) -> None:
    """Change the boot state of a disk that no machine uses."""
    offset = grubenv_offset(disk)
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(grubenv.render(state))
