"""Finds grubenv on the ESP, and changes the boot state there as one sector through the device.

The ESP is never mounted for it: a mount would write its directory and its dirty bit too, and a
power cut in between could cost the file. The file was put there by the build, as two sectors that
lie side by side, and nothing moves it.

Format: "FAT: General Overview of On-Disk Format", Microsoft 2000.
"""

from __future__ import annotations

import struct
from pathlib import Path

from updater import grubenv
from updater.disk import ALIGNMENT, Disk
from updater.errors import UpdateError
from updater.grubenv import FIRST_SECTOR, SIZE, BootState

FOLDERS = (b"EFI        ", b"BOOT       ")
FILE = b"GRUBENV    "
_ENTRY = 32
_END = 0x0FFFFFF8  # clusters from here on mean: no further one
_CLUSTERS_MAX = 4096  # of a folder; a broken FAT must not keep us for ever


class BootStateFile:
    """grubenv on an ESP."""

    def __init__(self, esp: Path) -> None:
        self.esp = esp

    def read(self) -> BootState:
        """The state; the default one where grubenv holds none, as GRUB does it too."""
        with Disk(self.esp) as disk:
            data = disk.read(_find(disk), SIZE)
        try:
            return grubenv.parse(data)
        except ValueError:
            return BootState()

    def write(self, state: BootState) -> None:
        """Change the state; when this returns, the disk has it."""
        data = grubenv.render(state)
        sector, rest = data[:FIRST_SECTOR], data[FIRST_SECTOR:]
        with Disk(self.esp, write=True) as disk:
            place = _find(disk)
            if disk.read(place, SIZE)[FIRST_SECTOR:] != rest:  # nonsense, which GRUB would read
                disk.write(place + FIRST_SECTOR, rest, FIRST_SECTOR)
                disk.flush()
            disk.write(place, sector, FIRST_SECTOR)
            disk.flush()
            if disk.read(place, FIRST_SECTOR) != sector:
                raise UpdateError(f"{self.esp}: the disk did not keep the boot state")


def _find(disk: Disk) -> int:
    """The byte at which grubenv begins."""
    head = disk.read(0, ALIGNMENT)
    sector, per_cluster, reserved, fats = struct.unpack_from("<HBHB", head, 11)
    fat_sectors, _, _, root = struct.unpack_from("<IHHI", head, 36)
    if head[510:512] != b"\x55\xaa" or sector != FIRST_SECTOR or not per_cluster:
        raise UpdateError(f"{disk.path} is no FAT32 with sectors of {FIRST_SECTOR} bytes")
    fat_at = reserved * sector
    data_at = fat_at + fats * fat_sectors * sector
    cluster_size = per_cluster * sector

    def place(cluster: int) -> int:
        return int(data_at + (cluster - 2) * cluster_size)

    def entry(cluster: int, name: bytes) -> int:
        """The first cluster of the file `name` in the folder at `cluster`."""
        for _ in range(_CLUSTERS_MAX):
            folder = disk.read(place(cluster), cluster_size)
            for at in range(0, len(folder), _ENTRY):
                if folder[at : at + 11] == name:
                    high, low = struct.unpack_from("<20xH4xH", folder, at)
                    return int(high) << 16 | int(low)
            where = fat_at + cluster * 4
            piece = disk.read(where // sector * sector, sector)
            (following,) = struct.unpack_from("<I", piece, where % sector)
            cluster = int(following) & 0x0FFFFFFF
            if not 2 <= cluster < _END:
                break
        raise UpdateError(f"{disk.path} has no EFI/BOOT/grubenv")

    cluster = root
    for folder in FOLDERS:
        cluster = entry(cluster, folder)
    return place(entry(cluster, FILE))
