"""What this node is: which slot runs, where its disk and its files are, what it was told."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from updater.boot import BootStateFile
from updater.contract import (
    ARGUMENT_MODE,
    ARGUMENT_NETBOOT,
    ARGUMENT_PARTUUID,
    ARGUMENT_SLOT,
    DATA_FOLDER,
    ETC_BOOTED,
    ETC_KEYS,
    ETC_RELEASE,
    ETC_REVOKED,
    GOOD,
    NODE_SSH_HOLDERS,
    NODE_SSH_HOST_KEY,
    PARTITION_ESP,
    RUN_CLOCK,
    RUN_CONFIRMED,
    RUN_NODE,
    RUN_WARNINGS,
    RUN_WATCHDOG,
    SLOTS,
)
from updater.errors import UpdateError, printable
from updater.settings import Settings, read_settings
from updater.signature import PublicKey, read_keys

STARTING = "run/openrc/starting"  # a link for each service that is just starting
SECTOR = 512  # what the kernel counts the size of a disk in


class System(NamedTuple):
    """The running release, as `release.json` of its image says. `built` in seconds since 1970."""

    os: str
    arch: str
    version: str
    built: int


class Node(NamedTuple):
    """`slot` is the running one; `mode` good, trial, once or rescue, as the boot loader says.

    `partitions` are those of the disk that it runs from, by name.
    """

    root: Path
    system: System
    settings: Settings
    slot: str
    mode: str
    partitions: dict[str, Path]
    boot: BootStateFile
    keys: list[PublicKey]
    revoked: frozenset[str] = frozenset()
    twins: tuple[str, ...] = ()  # partitions of other disks, with the GUID of the running slot

    @property
    def other(self) -> str:
        """The inactive slot."""
        return "b" if self.slot == "a" else "a"

    @property
    def slots(self) -> dict[str, Path]:
        """The partitions of both slots."""
        return {name: _partition(self.root, self.partitions, f"slot-{name}") for name in SLOTS}

    @property
    def data(self) -> Path:
        """Where the updater keeps what outlives a boot."""
        return self.root / DATA_FOLDER

    @property
    def name(self) -> str:
        """What its own files call it; nothing where they don't."""
        return _text(self.root / RUN_NODE / "name").strip()

    @property
    def no_ssh(self) -> list[str]:
        """Which of its own files are missing that SSH needs (init.d/belay-ssh)."""
        files = [self.root / path for path in (NODE_SSH_HOST_KEY, NODE_SSH_HOLDERS)]
        return [path.name for path in files if not path.is_file()]

    @property
    def boot_id(self) -> str:
        """What the kernel calls this boot."""
        return _text(self.root / "proc/sys/kernel/random/boot_id").strip()

    @property
    def has_data(self) -> bool:
        """Whether /data is a file system of its own, which outlives a boot."""
        return " /data " in _text(self.root / "proc/mounts")

    @property
    def warnings(self) -> list[str]:
        """What this boot found wrong with the node's own files, its data, or its disk."""
        return _text(self.root / RUN_WARNINGS).splitlines()

    def warn(self, text: str) -> None:
        """Add a warning, once for each boot. Where that can't be, the work goes on."""
        add_warning(self.root, text)

    @property
    def confirmed(self) -> bool:
        """Whether this boot was."""
        return (self.root / RUN_CONFIRMED).exists()

    @property
    def starting(self) -> list[str]:
        """The services that are just starting, apart from that which waits for all."""
        folder = self.root / STARTING
        names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
        return sorted(name for name in names if name != "belay-gate")

    @property
    def disk(self) -> dict[str, Any]:
        """The disk that it runs from: its `name` and `size`; of /data `data` and `data_free`.

        In bytes. What can't be told, such as where /data isn't mounted, is None.
        """
        slot = self.root / "sys/class/block" / self.slots[self.slot].name
        disk = slot.resolve().parent
        sectors = _text(disk / "size").strip()
        size = int(sectors) * SECTOR if sectors.isdigit() else None
        found = {"name": disk.name, "size": size, "data": None, "data_free": None}
        with suppress(OSError):  # of a disk that is gone
            if self.has_data:
                room = os.statvfs(self.data.parent)
                found["data"] = room.f_blocks * room.f_frsize
                found["data_free"] = room.f_bavail * room.f_frsize
        return found

    @property
    def clock(self) -> str:
        """Where this boot had the time from before anybody set it: hardware, or release."""
        none = (self.root / RUN_CLOCK).exists() or not (self.root / "sys/class/rtc/rtc0").exists()
        return "release" if none else "hardware"

    @property
    def watchdog(self) -> dict[str, Any] | None:
        """The watchdog's `name`, and after how long it resets (`timeout_s`); None where none is."""
        try:
            name, timeout = (self.root / RUN_WATCHDOG).read_text().splitlines()
            return {"name": name, "timeout_s": int(timeout)}
        except (OSError, ValueError):
            return None


def find_node(root: Path = Path("/")) -> Node:
    """This node. Raises UpdateError where it is none of Belay's."""
    words = dict(
        word.split("=", 1) for word in (root / "proc/cmdline").read_text().split() if "=" in word
    )
    slot = words.get(ARGUMENT_SLOT, "")
    if slot not in SLOTS:
        how = "came over the network" if ARGUMENT_NETBOOT in words else "was not booted from a slot"
        raise UpdateError(f"this system {how}: there is no slot to look at or to update")
    partitions, twins = _partitions(root, words.get(ARGUMENT_PARTUUID, ""))
    revoked = root / ETC_REVOKED
    return Node(
        root=root,
        system=System(**_json(root / ETC_RELEASE)),
        settings=read_settings(root)[0],
        slot=slot,
        mode=words.get(ARGUMENT_MODE, GOOD),
        partitions=partitions,
        boot=BootStateFile(_partition(root, partitions, PARTITION_ESP)),
        keys=read_keys(root / ETC_KEYS),
        revoked=frozenset(revoked.read_text().split() if revoked.exists() else ()),
        twins=twins,
    )


def _partition(root: Path, partitions: Mapping[str, Path], name: str) -> Path:
    """A partition; where the table has none of that name, a path that says so when it is opened."""
    return partitions.get(name, root / f"dev/no-partition-{name}")


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def add_warning(root: Path, text: str) -> None:
    """Add a warning, once for each boot. Where that can't be, the work goes on."""
    path = root / RUN_WARNINGS
    if text in _text(path).splitlines():
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("a") as file:
            file.write(f"{printable(text)}\n")


def _partitions(root: Path, partuuid: str) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The partitions of the disk that has the running slot, by their names in its table.

    The initramfs found the slot and says its name: other disks may have the same names and GUIDs.
    Which have is the second answer.
    """
    classes = root / "sys/class/block"
    entries = {path.name: _uevent(path / "uevent") for path in classes.iterdir()}
    same = sorted(
        name
        for name, values in entries.items()
        if partuuid and values.get("PARTUUID", "").lower() == partuuid.lower()
    )
    booted = _text(root / ETC_BOOTED).strip() or (same[0] if same else "")
    if booted not in entries and (root / ETC_BOOTED).exists():
        raise UpdateError(
            f"the disk with {booted}, from which this system was booted, is gone; where there is a "
            "watchdog, it resets this machine within minutes"
        )
    if booted not in entries:
        raise UpdateError(f"no disk has the partition {partuuid} that this system was booted from")
    disk = (classes / booted).resolve().parent
    siblings = {path.name for path in disk.iterdir()} & entries.keys()
    partitions = {
        entries[sibling]["PARTNAME"]: root / "dev" / sibling
        for sibling in siblings
        if "PARTNAME" in entries[sibling]
    }
    return partitions, tuple(name for name in same if name != booted)


def _uevent(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(line.split("=", 1) for line in lines if "=" in line)
