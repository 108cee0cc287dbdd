"""`image.toml`, the one config file, as frozen dataclasses.

An environment variable overrides the file: `BELAY_ALPINE_KERNEL=lts` is `kernel` in `[alpine]`.
Every mistake is reported with its file and line, and with what would have been right.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tomli

from builder.core.arch import ARCHES
from builder.core.errors import UserError
from builder.core.paths import CONFIG_FILE, VARIABLES
from updater.formats import VERSION
from updater.settings import LIMITS, PATTERNS, WANTED, Settings

MIB = 1024 * 1024
GIB = 1024 * MIB
AUTO = 0  # a number that the build finds out: "auto" in the file
SLOT_LEAST_MIB, SLOT_MOST_MIB = 32, 64 * 1024
PC_MODULES = "pc"
EDGE = "edge"  # Alpine's rolling branch
DAYS_MAX = 3650  # for which a channel may be believed


_HOST = r"(\[[0-9A-Fa-f:.]+\]|[^/@\s:?#\[\]]+)(:[0-9]+)?"
URL = rf"https?://([^/@\s:]+(:[^/@\s]*)?@)?{_HOST}(/[^\s?#]*)?"
URL_WANTED = "an http(s) URL, without ? and #; in a password, / and @ are written %2F and %40"


def _text(default: str, pattern: str, wanted: str) -> Any:
    """A string (or each string of a list) that must match `pattern`, in words: `wanted`."""
    return dataclasses.field(default=default, metadata={"pattern": pattern, "wanted": wanted})


def _texts(default: tuple[str, ...], pattern: str, wanted: str) -> Any:
    return dataclasses.field(default=default, metadata={"pattern": pattern, "wanted": wanted})


DEFAULTS = Settings()


def _setting(name: str) -> Any:
    """A key that nodes have as a setting, too: a text, a whole number, or true and false."""
    default = getattr(DEFAULTS, name)
    if isinstance(default, bool):
        return default
    if name in LIMITS:
        return _whole(default, *LIMITS[name])
    if name not in PATTERNS or name not in WANTED:
        raise TypeError(
            f"updater/settings.py: {name} has no line in PATTERNS and WANTED, or LIMITS"
        )
    return _text(default, PATTERNS[name], WANTED[name])


ArchName = Literal["x86_64", "aarch64"]  # those of core/arch.py
_NAME = r"[A-Za-z0-9.][A-Za-z0-9+._:-]*"  # or what packages provide: cmd:curl
_VERSION = r"[<>=~]{1,2}[A-Za-z0-9._-]+"
# A word of apk's world: a package, of a version perhaps, from a tagged repository, or not at all.
WORLD_WORD = re.compile(rf"!{_NAME}|{_NAME}(@[A-Za-z0-9._-]+)?({_VERSION})?")
WORLD_WANTED = 'packages, like "curl", "curl=8.9.1-r0", "curl~8.9", "curl@tag" or "!curl"'


def _packages() -> Any:
    return _texts((), WORLD_WORD.pattern, WORLD_WANTED)


@dataclass(frozen=True)
class OwnRepository:
    """A repository that isn't one of the mirror's: what a line of /etc/apk/repositories says.

    `url` is the folder that has `x86_64/APKINDEX.tar.gz`; `key` a file of the project with the
    public key that signs it, nothing where the mirror's keys do.
    """

    url: str = _text("", URL, URL_WANTED)
    key: str = _text("", r".*", "a file with a public key")
    tag: str = _text("", r"[A-Za-z0-9._-]*", "letters and digits")


def _whole(default: int, least: int, most: int) -> Any:
    """A whole number from `least` to `most`, both included; with AUTO as default, "auto" too."""
    return dataclasses.field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True)
class Os:
    """What is built."""

    name: str = _text("belay", r"[a-z0-9][a-z0-9-]{0,31}", "lower-case letters, digits, dashes")
    version: str = _text("0.1.0", VERSION.pattern, "a version like 1.2.3")
    built: int = _whole(0, 0, 1 << 40)  # seconds since 1970; of the commit, in a release


@dataclass(frozen=True)
class Alpine:
    """Which Alpine it is built from."""

    release: str = _text(
        "3.23", r"[0-9]+\.[0-9]+(\.[0-9]+)?|edge", "a release like 3.23 or 3.23.6, or edge"
    )
    arch: ArchName = "x86_64"
    # A list in the file: releases are made for all of them, and all else for the first.
    others: tuple[ArchName, ...] = dataclasses.field(default=(), metadata={"key": False})
    mirror: str = _text("auto", f"auto|sample|{URL}", f'"auto", "sample", or {URL_WANTED}')
    keys: str = _text("", r".*", "a folder with public keys, or nothing for Alpine's own")
    archive: str = _text("", f"({URL})?", f"nothing, or {URL_WANTED}")
    # Those of the mirror by name; in the file own ones stand among them.
    repositories: tuple[str, ...] = _texts(
        ("main", "community"),
        r"[a-z0-9][a-z0-9._-]*",
        'names of repositories, like "main", URLs, or {url = "https://...", key = "a.rsa.pub"}',
    )
    own: tuple[OwnRepository, ...] = dataclasses.field(default=(), metadata={"key": False})
    kernel: Literal["virt", "lts", "rpi"] = "virt"
    available: tuple[str, ...] = _packages()

    @property
    def branch(self) -> str:
        """The release's branch as mirrors spell it: `v3.23`, for 3.23.6 too; or `edge`."""
        if self.release == EDGE:
            return EDGE
        return "v" + ".".join(self.release.split(".")[:2])


@dataclass(frozen=True)
class Disk:
    """Sizes of the partitions of the disk image, in MiB; see `layout.sized`."""

    slot_mib: int = _whole(AUTO, SLOT_LEAST_MIB, SLOT_MOST_MIB)
    data_mib: int = _whole(64, 16, 1024 * 1024)


@dataclass(frozen=True)
class Boot:
    """How a slot is booted."""

    # GRUB would take the rest of the line behind a # for a comment; x86 kernels take 2047 bytes,
    # of which Belay's own words need up to 500.
    cmdline: str = _text(
        "",
        r"(?!(.*\s)?#)[ !#%()*+,\-./0-9:=?@A-Z\[\]^_a-z~]{0,1500}",
        "at most 1500 ASCII characters, without quotes, shell characters, "
        "and words that begin with #",
    )
    board: Literal["", "rpi"] = ""
    features: tuple[str, ...] = _texts(
        ("belay",), r"[a-z0-9][a-z0-9-]*", "names of mkinitfs features"
    )
    packages: tuple[str, ...] = _packages()


@dataclass(frozen=True)
class Modloop:
    """Which kernel modules a node has."""

    modules: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "pattern": r"[A-Za-z0-9][A-Za-z0-9_-]*",
            "wanted": 'names of kernel modules, or "pc": those of common PCs',
            "alone": PC_MODULES,  # a word that may stand for a list
        },
    )
    firmware: tuple[str, ...] = _texts(
        (), r"[A-Za-z0-9*?\[][^\n\t]*", 'paths below lib/firmware, such as "intel/ibt-*"'
    )


@dataclass(frozen=True)
class Login:
    """Who may log in at the console."""

    console: Literal["development", "locked"] = "locked"
    serial: bool = True


@dataclass(frozen=True)
class Node:
    """Where a node finds the files that are its own, and the time."""

    label: str = _text("BELAY", r"[A-Z0-9_-]{1,11}", "1 to 11 capital letters, digits, _ or -")
    ntp: tuple[str, ...] = _texts(
        ("pool.ntp.org",), r"[A-Za-z0-9][A-Za-z0-9.:-]*", "names or addresses of time servers"
    )
    log: str = _setting("log")


@dataclass(frozen=True)
class Update:
    """How nodes update themselves: what `updater.settings.Settings` says of each."""

    url: str = _text(
        "", r"(https?://\S+[^/\s])?", "an http(s) URL without / at its end, or nothing"
    )
    channel: str = _setting("channel")
    rate: int = _setting("rate")
    interval_s: int = _setting("interval_s")
    window: str = _setting("window")
    network: bool = _setting("network")
    deadline_s: int = _setting("deadline_s")
    boot_s: int = _setting("boot_s")
    site: bool = _setting("site")
    stick: str = _setting("stick")
    proxy: str = _text(
        "", rf"(http://([^/@\s]+@)?{_HOST})?", "a URL like http://proxy:3128, or nothing"
    )
    no_proxy: str = _text("", r"[A-Za-z0-9.:, -]*", "hosts, like localhost,.example.org")


@dataclass(frozen=True)
class Publish:
    """Where `inv upload` publishes to; nodes fetch it from `url` in `[update]`."""

    to: str = _text("", r"\S*", "a folder, or host:folder over SSH")
    days: int = _whole(30, 1, DAYS_MAX)
    level: int = _whole(6, 0, 9)
    tested: bool = False
    deltas: int = _whole(3, 0, 99)
    budget_mb: int = _whole(0, 0, 1 << 20)


@dataclass(frozen=True)
class Build:
    """How it is built, which changes nothing in what is built."""

    engine: Literal["auto", "docker", "bubblewrap"] = "auto"
    cache_gib: int = _whole(16, 0, 1 << 20)


@dataclass(frozen=True)
class Config:
    """The whole of `image.toml`."""

    os: Os = Os()
    alpine: Alpine = Alpine()
    disk: Disk = Disk()
    boot: Boot = Boot()
    modloop: Modloop = Modloop()
    login: Login = Login()
    node: Node = Node()
    update: Update = Update()
    publish: Publish = Publish()
    build: Build = Build()

    def each_arch(self) -> list[Config]:
        """This config for each architecture that releases are made for."""
        names = (self.alpine.arch, *self.alpine.others)
        alpines = [replace(self.alpine, arch=name, others=()) for name in names]
        return [replace(self, alpine=alpine) for alpine in alpines]

    @property
    def cmdline(self) -> str:
        """The words for the kernel, with its consoles where none is named."""
        words = self.boot.cmdline
        if "console=" in words:
            return words
        return f"console=tty0 console={self.serial},115200 {words}".rstrip()

    @property
    def serial(self) -> str:
        """The serial line, as the kernel calls it: on boards what leads to their pins."""
        return "ttyS0" if self.boot.board else ARCHES[self.alpine.arch].serial


Found = tuple[Any, Callable[[], str]]  # a value, and what says where it stands

SECTIONS: dict[str, Any] = typing.get_type_hints(Config)


def load_config(path: Path = CONFIG_FILE, environ: Mapping[str, str] = os.environ) -> Config:
    """Read `path`. Raises UserError at the first mistake, or where the file is missing."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing", f"git checkout {path.name} brings it back") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name}: is not UTF-8 text: {error}") from None
    try:
        raw = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise UserError(f"{path.name}: is not valid TOML: {error}") from None

    _check_environment(environ)
    sections: dict[str, Any] = {}
    for section, values in raw.items():
        if section not in SECTIONS:
            where = _where(path, text, section)
            raise UserError(f'{where} unknown section "{section}", {_nearest(section, SECTIONS)}')
        if not isinstance(values, dict):
            where = _where(path, text, section)
            raise UserError(f"{where} found {values!r}, wanted a section: [{section}]")
        known = _fields(section)
        for key in values:
            if key not in known:
                where = _where(path, text, section, key)
                raise UserError(f'{where} unknown key "{key}", {_nearest(key, known)}')
    for section, cls in SECTIONS.items():
        found: dict[str, Found] = {
            key: (value, partial(_where, path, text, section, key))
            for key, value in raw.get(section, {}).items()
        }
        for key in _fields(section):
            if (name := _variable(section, key)) in environ:
                value = _from_text(environ[name], typing.get_type_hints(cls)[key])
                found[key] = (value, partial(str, f"{name}:"))
        more = _take_lists(found) if section == "alpine" else {}
        given = {key: _checked(value, cls, key, where) for key, (value, where) in found.items()}
        sections[section] = cls(**given, **more)
    config = Config(**sections)
    if "belay" not in config.boot.features:
        where = _where(path, text, "boot", "features")
        raise UserError(f'{where} features: wanted "belay" among them: it finds and starts a slot')
    return config


def _check_environment(environ: Mapping[str, str]) -> None:
    """Raise UserError where a variable looks like one of Belay's, and is none."""
    keys = {_variable(section, key) for section in SECTIONS for key in _fields(section)}
    for name in sorted(environ):
        if name.startswith("BELAY_") and name not in keys | VARIABLES:
            own = {known.removeprefix("BELAY_") for known in keys | VARIABLES}
            near = difflib.get_close_matches(name.removeprefix("BELAY_"), own, n=1, cutoff=0.7)
            hint = f'did you mean "BELAY_{near[0]}"?' if near else "see docs/configuration.md"
            raise UserError(f"{name}: there is no such variable", hint)


def _variable(section: str, key: str) -> str:
    return f"BELAY_{section}_{key}".upper()


def _fields(section: str) -> dict[str, dataclasses.Field[Any]]:
    """What may stand in a section."""
    return _keys(SECTIONS[section])


def _keys(cls: Any) -> dict[str, dataclasses.Field[Any]]:
    return {item.name: item for item in dataclasses.fields(cls) if item.metadata.get("key", True)}


def _where(path: Path, text: str, section: str, key: str = "") -> str:
    """Where `key` stands, as messages begin: `image.toml:12: [alpine]`."""
    current = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
            current = header[1]
        is_key = re.match(rf'\s*"?{re.escape(key or section)}"?\s*=', line)
        if (current == section and (not key or is_key)) or (not current and is_key):
            return f"{path.name}:{number}: [{section}]"
    return f"{path.name}: [{section}]"


def _nearest(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f'did you mean "{near[0]}"?' if near else f"known are: {', '.join(names)}"


def _from_text(text: str, wanted: Any) -> object:
    """The value of an environment variable as TOML would have given it."""
    if wanted is bool and text in ("true", "false"):
        return text == "true"
    if wanted is int and re.fullmatch(r"-?[0-9]+", text):
        return int(text)
    return text.split() if typing.get_origin(wanted) is tuple else text


def _take_own_repositories(found: dict[str, Found]) -> tuple[OwnRepository, ...]:
    """Take out of the list of repositories what is none of the mirror's by name."""
    listed, where = found.get("repositories", (None, str))
    if not isinstance(listed, list):
        return ()
    names, own = [], []
    for item in listed:
        if isinstance(item, str) and "://" not in item:
            names.append(item)
            continue
        table = item if isinstance(item, dict) else {"url": item}
        for key in table:
            if key not in _keys(OwnRepository):
                near = _nearest(key, _keys(OwnRepository))
                raise UserError(f'{where()} repositories: unknown key "{key}", {near}')
        given = {
            key: _checked(value, OwnRepository, key, lambda: f"{where()} repositories:")
            for key, value in {"url": "", **table}.items()
        }
        own.append(OwnRepository(**given | {"url": given["url"].rstrip("/")}))
    found["repositories"] = (names, where)
    if not names:  # those of the mirror needn't be named
        del found["repositories"]
    return tuple(own)


def _take_lists(found: dict[str, Found]) -> dict[str, Any]:
    """What [alpine] has beside the fields that keys fill."""
    return {"own": _take_own_repositories(found), "others": _take_others(found)}


def _take_others(found: dict[str, Found]) -> tuple[ArchName, ...]:
    """Take all architectures but the first out of a list of them."""
    listed, where = found.get("arch", (None, str))
    if not isinstance(listed, list):
        return ()
    for item in listed:
        _checked(item, Alpine, "arch", where)
    if not listed or len(listed) > len(set(listed)):
        raise UserError(f"{where()} arch: found {listed}, wanted each once, and at least one")
    found["arch"] = (listed[0], where)
    return tuple(listed[1:])


def _checked(value: object, cls: Any, key: str, where: Callable[[], str]) -> Any:
    """`value` if it is what the field allows, lists as tuples; else a UserError that says where."""
    kind = typing.get_type_hints(cls)[key]
    rule, default = _keys(cls)[key].metadata, _keys(cls)[key].default

    def refuse(wanted: str) -> UserError:
        # A password may be in it, and then this is not its place.
        shown = "a URL that is none" if "://" in repr(value) and "@" in repr(value) else repr(value)
        return UserError(f"{where()} {key}: found {shown}, wanted {wanted}")

    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise refuse(" or ".join(f'"{choice}"' for choice in typing.get_args(kind)))
        return value
    if kind is bool:
        if type(value) is not bool:
            raise refuse("true or false")
        return value
    if kind is int:
        may_be_auto = default == AUTO and rule["least"] > AUTO
        if may_be_auto and value == "auto":
            return AUTO
        if type(value) is not int or not rule["least"] <= value <= rule["most"]:
            word = ', or "auto"' if may_be_auto else ""
            raise refuse(f"a whole number from {rule['least']} to {rule['most']}{word}")
        return value
    items = [value] if kind is str or value == rule.get("alone") else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        alone = f', or "{rule["alone"]}"' if "alone" in rule else ""
        raise refuse(
            "a string in quotes" if kind is str else f'a list of strings: ["a", "b"]{alone}'
        )
    for item in items:
        if not re.fullmatch(rule["pattern"], item):
            raise refuse(rule["wanted"])
    return value if kind is str else tuple(items)
