"""Reads and changes the boot state in a disk image."""

from __future__ import annotations

from pathlib import Path

from builder.disk.layout import SECTOR
from builder.disk.table import read_table
from updater import grubenv
from updater.grubenv import BootState

SEARCH_SIZE = 4 << 20  # grubenv is the first file of the ESP; before it are only the FATs


def grubenv_offset(disk: Path) -> int:
    """Where grubenv lies, in bytes. GRUB's own program has its header too, but in mid-sector."""
    with disk.open("rb") as file:
        esp = read_table(file)["esp"]
        file.seek(esp.offset)
        data = file.read(SEARCH_SIZE)
    for at in range(0, len(data), SECTOR):
        if data.startswith(grubenv.HEADER.encode(), at):
            return esp.offset + at
    raise ValueError(f"{disk}: there is no grubenv")


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
