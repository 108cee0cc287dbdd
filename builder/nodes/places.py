"""Where a node's own files go: a mounted stick, a device, a disk image, or a node that runs."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from builder.core.errors import UserError
from builder.core.files import write_atomically
from builder.core.host import require_program
from builder.core.paths import CACHE
from builder.disk.layout import NODE_MIB
from builder.disk.table import read_table

STICKS = "a folder (a mounted stick), a device (a stick, or a disk with Belay on it), a disk image"
PLACE_HELP = f"{STICKS}, or [user@]host of a running node, by SSH"
SSH_TIMEOUT_S = 300


class Place(Protocol):
    """Takes a node's files: those of a folder, or as a volume, which `volume` makes of them."""

    name: str

    def write(self, folder: Path, volume: Callable[[], bytes]) -> None:
        """Bring them there. Raises UserError."""


def open_place(text: str, hosts: bool = True) -> Place:
    """The place that is named; without `hosts`, one on this machine. Nothing is written yet.

    Raises UserError where it can't take files.
    """
    path = Path(text)
    if path.is_dir():
        return Folder(path)
    if path.exists():
        return Device(path)
    if hosts and "/" not in text and not text.endswith(".img"):
        return Node(text)
    raise UserError(
        f"{text}: there is no such folder or device",
        "plug the stick in, and look with lsblk what it is called",
    )


class Folder:
    """A folder, such as that of a mounted stick."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)
        if folder.resolve().is_relative_to("/dev"):
            raise UserError(f"{folder} is a folder in /dev, and what lies there is gone at reboot")
        if not os.access(folder, os.W_OK):
            raise UserError(f"{folder}: may not be written", "mount the stick so that you may")

    def write(self, folder: Path, volume: Callable[[], bytes]) -> None:
        """See Place.write. Other files there stay."""
        for path in sorted(folder.iterdir()):
            write_atomically(self.folder / path.name, path.read_bytes(), 0o600)


class Device:
    """A stick, which becomes the volume; or the partition `node` of a disk with Belay on it."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        if path.resolve().is_relative_to(CACHE):
            raise UserError(
                f"{path} leads into the cache, and so into every image that has it: make an image "
                "for this node: ./inv node.image NAME",
                "or write to a copy",
            )
        mode = path.stat().st_mode
        if not stat.S_ISBLK(mode) and not stat.S_ISREG(mode):
            raise UserError(f"{path} is no disk")
        self.offset = self._partition()
        if stat.S_ISBLK(mode):
            self._check_device()
        elif self.offset is None:
            raise UserError(f"{path} is no disk, and no disk image with a partition for a node")
        if not os.access(path, os.W_OK):
            raise UserError(f"{path}: may not be written", "run this as root")

    def _partition(self) -> int | None:
        """Where the partition `node` begins, if Belay's layout is there."""
        try:
            with self.path.open("rb") as disk:
                node = read_table(disk).get("node")
        except (ValueError, OSError):
            return None
        return node.offset if node and node.end - node.offset == NODE_MIB << 20 else None

    def _check_device(self) -> None:
        """Raise UserError where something else may be lost."""
        name = self.path.resolve().name
        mounts = Path("/proc/mounts").read_text().splitlines()
        if any(line.startswith(f"/dev/{name}") for line in mounts):
            raise UserError(
                f"{self.path} is mounted: unmount it, or give the folder it is mounted on"
            )
        removable = Path(f"/sys/class/block/{name}/removable")
        is_stick = removable.exists() and removable.read_text().strip() == "1"
        if self.offset is None and not is_stick:
            raise UserError(
                f"{self.path} is no whole removable disk, and may hold your files",
                "format it yourself and give the folder it is mounted on",
            )

    def write(self, folder: Path, volume: Callable[[], bytes]) -> None:
        """See Place.write."""
        with self.path.open("r+b") as disk:
            disk.seek(self.offset or 0)
            disk.write(volume())
            disk.flush()
            os.fsync(disk.fileno())


class Node:
    """A node that runs, by SSH as root: its disk has a partition for these files."""

    def __init__(self, host: str) -> None:
        self.host, self.name = host, host
        self._program = require_program("ssh")

    def write(self, folder: Path, volume: Callable[[], bytes]) -> None:
        """See Place.write. The node checks what comes, and reads it back."""
        host = self.host if "@" in self.host else f"root@{self.host}"
        command = [self._program, "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", host]
        done = subprocess.run(
            [*command, "belay node --write -"], input=volume(), capture_output=True, check=False,
            timeout=SSH_TIMEOUT_S,
        )  # fmt: skip
        if done.returncode:
            output = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise UserError(f"{host}: its files are as before: {output}")
