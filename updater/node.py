"""What this node is: which slot runs, where its disk and its files are, what it was told."""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from updater.boot import BootStateFile
from updater.errors import UpdateError, printable
from updater.grubenv import SLOTS
from updater.reading import read_file, read_object
from updater.signature import PublicKey, read_keys

ETC = "etc/belay"
NODE_FILES = "run/belay/node"
BOOTED = "etc/belay/booted"  # the name of the partition of the running slot, by the initramfs
SSH_HOST_KEY, SSH_HOLDERS = "dropbear_ed25519_host_key", "authorized_keys"  # of NODE_FILES
WARNINGS = "run/belay/warnings"
CONFIRMED = "run/belay/confirmed"  # from then on the watchdog is fed for good
STARTING = "run/openrc/starting"  # a link for each service that is just starting
CLOCK = "run/belay/clock"  # there where the hardware clock was wrong, by init.d/belay-data
WATCHDOG = "run/belay/watchdog"  # by usr/lib/belay/watchdog, which feeds it
DATA = "data"
DATA_FOLDER = "belay"


# The least and the most of each number.
LIMITS = {
    "rate": (0, 1 << 40),
    "interval_s": (10, 366 * 86400),
    "deadline_s": (10, 86400),
    "boot_s": (60, 86400),
}
HOUR = "(?:[0-9]|1[0-9]|2[0-3])"
PORT = "(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
# What texts look like; others may have any.
PATTERNS = {
    "log": rf"(udp://(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9][A-Za-z0-9.-]*)(:{PORT})?)?",
    "channel": r"[a-z0-9][a-z0-9._-]{0,63}",
    "stick": r"[A-Z0-9_-]{0,11}",
    "window": rf"((?P<first>{HOUR})-(?!(?P=first)$){HOUR})?",
}
SECTOR = 512  # what the kernel counts the size of a disk in
WANTED = {  # the same in words
    "channel": "small letters, digits, . _ -",
    "log": "udp://HOST, udp://HOST:PORT, or nothing",
    "stick": "up to 11 capital letters or digits",
    "window": "two different hours from 0 to 23, like 22-4, or nothing",
}
KINDS = {str: "a text", int: "a whole number", bool: "true or false"}
TEXT_MAX = 2000  # characters
RESOLVED = "run/belay/settings"  # what counts on this node, for the shell: lines NAME=VALUE


class Settings(NamedTuple):
    """`settings.json` of the image, overridden by that of the node's own files.

    `url` is the server; `rate` the bytes a second that a download may take (0: all); `window` the
    hours in which a node may update and reboot by itself, as 22-4 in its local time; `stick` the
    label of sticks with releases. `deadline_s` is for all health checks together, and for applying
    the site; `boot_s` for a boot to be confirmed, else the watchdog ends it. Of `proxy` and
    `no_proxy` see `server.Access`; `log` is where syslog goes, too, as udp://HOST:PORT (RFC 3164).
    """

    url: str = ""
    channel: str = "stable"
    rate: int = 0
    interval_s: int = 3600
    window: str = ""
    network: bool = False  # whether a system without network is unhealthy
    deadline_s: int = 300
    boot_s: int = 600
    stick: str = ""
    site: bool = False  # whether the server has a configuration for this node
    proxy: str = ""
    no_proxy: str = ""
    log: str = ""


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
        return self.root / DATA / DATA_FOLDER

    @property
    def name(self) -> str:
        """What its own files call it; nothing where they don't."""
        return _text(self.root / NODE_FILES / "name").strip()

    @property
    def no_ssh(self) -> list[str]:
        """Which of its own files are missing that SSH needs (init.d/belay-ssh)."""
        files = self.root / NODE_FILES
        return [name for name in (SSH_HOST_KEY, SSH_HOLDERS) if not (files / name).is_file()]

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
        return _text(self.root / WARNINGS).splitlines()

    def warn(self, text: str) -> None:
        """Add a warning, once for each boot. Where that can't be, the work goes on."""
        add_warning(self.root, text)

    @property
    def confirmed(self) -> bool:
        """Whether this boot was."""
        return (self.root / CONFIRMED).exists()

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
                room = os.statvfs(self.root / DATA)
                found["data"] = room.f_blocks * room.f_frsize
                found["data_free"] = room.f_bavail * room.f_frsize
        return found

    @property
    def clock(self) -> str:
        """Where this boot had the time from before anybody set it: hardware, or release."""
        none = (self.root / CLOCK).exists() or not (self.root / "sys/class/rtc/rtc0").exists()
        return "release" if none else "hardware"

    @property
    def watchdog(self) -> dict[str, Any] | None:
        """The watchdog's `name`, and after how long it resets (`timeout_s`); None where none is."""
        try:
            name, timeout = (self.root / WATCHDOG).read_text().splitlines()
            return {"name": name, "timeout_s": int(timeout)}
        except (OSError, ValueError):
            return None


def find_node(root: Path = Path("/")) -> Node:
    """This node. Raises UpdateError where it is none of Belay's."""
    words = dict(
        word.split("=", 1) for word in (root / "proc/cmdline").read_text().split() if "=" in word
    )
    slot = words.get("belay.slot", "")
    if slot not in SLOTS:
        how = "came over the network" if "belay.netboot" in words else "was not booted from a slot"
        raise UpdateError(f"this system {how}: there is no slot to look at or to update")
    partitions, twins = _partitions(root, words.get("belay.partuuid", ""))
    etc = root / ETC
    revoked = etc / "revoked"
    return Node(
        root=root,
        system=System(**_json(etc / "release.json")),
        settings=read_settings(root)[0],
        slot=slot,
        mode=words.get("belay.mode", "good"),
        partitions=partitions,
        boot=BootStateFile(_partition(root, partitions, "esp")),
        keys=read_keys(etc / "keys"),
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


def read_settings(root: Path) -> tuple[Settings, list[str]]:
    """The settings of a node, and what is wrong with its own.

    Its own count as far as they make sense: a slip there must not end all updates.
    """
    values, wrong = _json(root / ETC / "settings.json"), []
    name = "settings.json"
    try:
        own = read_object(read_file(root / NODE_FILES / name, TEXT_MAX * 40))
    except FileNotFoundError:
        own = {}
    except (OSError, ValueError) as error:
        own, wrong = {}, [f"{name} is no JSON object, and is ignored: {error}"]
    for key, value in own.items():
        if problem := _problem(key, value):
            wrong.append(f"{name}: {key} is {str(value)[:80]!r}, and is ignored: {problem}")
        else:
            values[key] = value
    return Settings(**values), wrong


def _problem(name: str, value: object) -> str:
    """What is wrong with a setting; nothing if it makes sense."""
    kind = Settings.__annotations__.get(name)
    if kind is None:
        return "there is no such setting"
    if type(value) is not kind:
        return f"wanted {KINDS[kind]}"
    if isinstance(value, str):
        if len(value) > TEXT_MAX or not value.isprintable():
            return f"wanted up to {TEXT_MAX} characters that can be printed"
        pattern = PATTERNS.get(name)
        return "" if pattern is None or re.fullmatch(pattern, value) else f"wanted {WANTED[name]}"
    least, most = LIMITS.get(name, (0, 1))
    assert isinstance(value, int)
    return "" if least <= value <= most else f"wanted {least} to {most}"


def for_shell(settings: Settings) -> str:
    """Settings as lines NAME=VALUE."""
    values = settings._asdict().items()
    return "".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}\n"
        for name, value in values
    )


def resolve_settings(root: Path) -> Settings:
    """Say once for all what counts on this node; the shell reads that, too."""
    settings, wrong = read_settings(root)
    place = root / RESOLVED
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = place.with_name(f".{place.name}")
    fresh.write_text(for_shell(settings))
    fresh.rename(place)
    for text in wrong:
        add_warning(root, text)
    return settings


def add_warning(root: Path, text: str) -> None:
    """Add a warning, once for each boot. Where that can't be, the work goes on."""
    place = root / WARNINGS
    if text in _text(place).splitlines():
        return
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with place.open("a") as file:
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
    booted = _text(root / BOOTED).strip() or (same[0] if same else "")
    if booted not in entries and (root / BOOTED).exists():
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
