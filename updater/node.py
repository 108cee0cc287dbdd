"""What this node is: which slot runs, where its disk and its files are, what it was told."""

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from updater.boot import BootStateFile
from updater.errors import UpdateError
from updater.grubenv import SLOTS
from updater.signature import PublicKey, read_keys

if TYPE_CHECKING:
    from updater.server import Access

ETC = "etc/belay"
NODE_FILES = "run/belay/node"
WARNINGS = "run/belay/warnings"
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
TEXT_MAX = 2000  # characters


class Settings(NamedTuple):
    """`settings.json` of the image, overridden by that of the node's own files.

    `url` is the server; `rate` the bytes a second that a download may take (0: all); `window` the
    hours in which a node may update and reboot by itself, as 22-4 in its local time; `stick` the
    label of sticks with releases. `deadline_s` is for all health checks together, and for applying
    the site; `boot_s` for a boot to be confirmed, else the watchdog ends it. Of `proxy` and
    `no_proxy` see `server.Access`.
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

    @property
    def other(self) -> str:
        """The inactive slot."""
        return "b" if self.slot == "a" else "a"

    @property
    def slots(self) -> dict[str, Path]:
        """The partitions of both slots."""
        return {name: self.partitions[f"slot-{name}"] for name in SLOTS}

    @property
    def data(self) -> Path:
        """Where the updater keeps what outlives a boot."""
        return self.root / DATA / DATA_FOLDER

    @property
    def name(self) -> str:
        """What its own files call it; nothing where they don't."""
        return _text(self.root / NODE_FILES / "name").strip()

    @property
    def boot_id(self) -> str:
        """What the kernel calls this boot."""
        return _text(self.root / "proc/sys/kernel/random/boot_id").strip()

    @property
    def access(self) -> "Access":
        """How it gets to its server: with its own certificates and token, if it has any."""
        from updater.server import Access

        files = self.root / NODE_FILES
        authorities, token = (files / name for name in ("ca.pem", "token"))
        return Access(
            self.settings.proxy,
            self.settings.no_proxy,
            authorities if authorities.exists() else None,
            token if token.exists() else None,
            self.settings.rate,
        )

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
        if text in self.warnings:
            return
        with suppress(OSError):
            (self.root / WARNINGS).parent.mkdir(parents=True, exist_ok=True)
            with (self.root / WARNINGS).open("a") as file:
                file.write(f"{text}\n")

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
    partitions = _partitions(root, words.get("belay.partuuid", ""))
    etc = root / ETC
    revoked = etc / "revoked"
    return Node(
        root=root,
        system=System(**_json(etc / "release.json")),
        settings=Settings(**_json(etc / "settings.json") | _own_settings(root)),
        slot=slot,
        mode=words.get("belay.mode", "good"),
        partitions=partitions,
        boot=BootStateFile(partitions["esp"]),
        keys=read_keys(etc / "keys"),
        revoked=frozenset(revoked.read_text().split() if revoked.exists() else ()),
    )


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def _own_settings(root: Path) -> dict[str, Any]:
    """The node's own, as far as they make sense: a slip there must not end all updates."""
    try:
        values = _json(root / NODE_FILES / "settings.json")
        return {name: value for name, value in values.items() if _makes_sense(name, value)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _makes_sense(name: str, value: object) -> bool:
    if type(value) is not Settings.__annotations__.get(name):
        return False
    if isinstance(value, str):
        return len(value) <= TEXT_MAX and value.isprintable()
    least, most = LIMITS.get(name, (0, 1))
    return isinstance(value, int) and least <= value <= most


def _partitions(root: Path, partuuid: str) -> dict[str, Path]:
    """The partitions of the disk that has the running slot, by their names in its table.

    Other disks may have the same names: a copy of this one that was plugged in for repair.
    """
    classes = root / "sys/class/block"
    entries = {path.name: _uevent(path / "uevent") for path in classes.iterdir()}
    for name, values in entries.items():
        if values.get("PARTUUID", "").lower() == partuuid.lower() and partuuid:
            disk = (classes / name).resolve().parent
            siblings = {path.name for path in disk.iterdir()} & entries.keys()
            return {
                entries[sibling]["PARTNAME"]: root / "dev" / sibling
                for sibling in siblings
                if "PARTNAME" in entries[sibling]
            }
    raise UpdateError(f"no disk has the partition {partuuid} that this system was booted from")


def _uevent(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(line.split("=", 1) for line in lines if "=" in line)
