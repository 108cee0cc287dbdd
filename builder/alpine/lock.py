"""`apk.lock`: the exact packages of a build, so that it is the same tomorrow and elsewhere.

A TOML file, one line for each package, sorted, so that its difference in git says what changed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli

from builder.alpine.apk import STATIC
from builder.alpine.mirror import SAMPLE
from builder.alpine.numbers import Numbers, checked
from builder.core.config import SLOT_LEAST_MIB, SLOT_MOST_MIB, Config, load_config
from builder.core.errors import UserError
from builder.core.files import write_atomically
from builder.core.git import git
from builder.core.paths import LOCK_FILE
from updater.contract import arch_folder

HEADER = """\
# The exact packages of a build: made by `./inv lock`, read by everything else. Keep it in git.
# package = [version, bytes, SHA-256, repository]
# Users and groups keep their numbers, as data on nodes outlives releases: none is ever given anew.
# slot_mib: with each kernel the size of a slot, as nodes can't change it; see docs/hardware.md.
"""
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9+._~-]*")
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, order=True)
class LockedPackage:
    """One package; `size` in bytes, `sha256` of the whole file."""

    name: str
    version: str
    size: int
    sha256: str
    repository: str

    @property
    def file_name(self) -> str:
        """What the package is called on a mirror."""
        return f"{self.name}-{self.version}.apk"


@dataclass(frozen=True)
class Lock:
    """What was locked: `wanted` are the packages asked for, `packages` all that this takes."""

    release: str
    arch: str
    source: str  # the mirror: a URL, or "sample"
    indexes: Mapping[str, str]  # by repository the SHA-256 of the index that was solved with
    wanted: Mapping[str, tuple[str, ...]]  # by world
    packages: Mapping[str, tuple[LockedPackage, ...]]  # by world, sorted
    # Of users and groups, also of packages that are gone.
    numbers: Numbers = field(default_factory=Numbers)
    numbered: str = ""  # `digest` of the packages whose users and groups have their numbers
    slots: Mapping[str, int] = field(default_factory=dict)  # by kernel the size of a slot in MiB

    def digest(self, world: str) -> str:
        """The identity of a world's packages."""
        return digest(self.packages[world])


def digest(packages: Iterable[LockedPackage]) -> str:
    """The identity of some packages."""
    text = "".join(f"{p.file_name} {p.sha256}\n" for p in packages)
    return hashlib.sha256(text.encode()).hexdigest()


def render(lock: Lock) -> str:
    """The file."""
    lines = [HEADER]
    words = ("release", "arch", "source", "numbered")
    lines += [f"{name} = {_toml(getattr(lock, name))}" for name in words]
    lines += [
        "",
        "[index]",
        *(f"{_key(name)} = {_toml(h)}" for name, h in sorted(lock.indexes.items())),
    ]
    lines += ["", "[world]", *(f"{name} = {_toml(w)}" for name, w in sorted(lock.wanted.items()))]
    for kind, numbers in (("users", lock.numbers.users), ("groups", lock.numbers.groups)):
        lines += ["", f"[{kind}]", *(f"{_key(name)} = {i}" for name, i in numbers.items())]
    if lock.slots:
        lines += ["", "[slot_mib]", *(f"{_key(name)} = {i}" for name, i in lock.slots.items())]
    for world, packages in sorted(lock.packages.items()):
        lines += ["", f"[packages.{world}]"]
        lines += [
            f"{_toml(p.name)} = {_toml([p.version, p.size, p.sha256, p.repository])}"
            for p in packages
        ]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    """A key in TOML: only some names need no quotes."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    """A string, number or list in TOML, which for these is what JSON is."""
    return json.dumps(value)


def write_lock(path: Path, lock: Lock) -> None:
    """Write the file, whole or not at all."""
    write_atomically(path, render(lock).encode())


def lock_file(config: Config) -> Path:
    """`apk.lock`, or one beside it: named for its architecture, but that of x86-64, and for its
    Alpine release, but the one of image.toml.
    """
    ours, usual = config.alpine, load_config(environ={}).alpine
    words = [LOCK_FILE.stem]
    words += [ours.release] if ours.release != usual.release else []
    words += [folder] if (folder := arch_folder(ours.arch)) else []
    return LOCK_FILE.with_name(f"{'-'.join(words)}{LOCK_FILE.suffix}")


def lock_of(config: Config) -> Lock | None:
    """The lock of this release and architecture; None if there is none yet.

    Raises UserError where it is damaged, or of another architecture.
    """
    path, arch = lock_file(config), config.alpine.arch
    lock = read_lock(path)
    if lock and lock.arch != arch:
        raise UserError(
            f"{path.name}: is of {lock.arch}, wanted {arch}",
            f"bring back that of {arch}: git checkout {path.name}; if there never was one, remove "
            "the file, and ./inv lock makes it",
        )
    return lock


def committed_lock(name: str) -> Lock | None:
    """The lock of that name as it was committed last, if one can be read: for its numbers."""
    try:
        text = git("show", f"HEAD:./{name}")
        return _parsed(text or "", name)
    except UserError:
        return None


def read_lock(path: Path) -> Lock | None:
    """Read the file; None if there is none. Raises UserError where it is damaged."""
    try:
        return _parsed(path.read_bytes().decode(errors="replace"), path.name)
    except FileNotFoundError:
        return None


def _parsed(text: str, name: str) -> Lock:
    """A lock from its text. Raises UserError where it is damaged."""
    if re.search("^(<<<<<<<|>>>>>>>) ", text, re.MULTILINE):
        raise UserError(
            f"{name}: has marks of a merge conflict",
            "keep the lines of [users], [groups] and [slot_mib] of both sides: there each name "
            "once, and in the first two each number once; of the rest keep one side; then run "
            "./inv lock",
        )
    try:
        raw = tomli.loads(text)
        for world in (STATIC, *raw["world"]):
            if world not in raw["packages"]:
                raise KeyError(f"no [packages.{world}]")
        for repository, index in raw["index"].items():
            if not SHA256.fullmatch(index):
                raise TypeError(f"{repository} = {index}, wanted a SHA-256")
        if not re.fullmatch(f"{SAMPLE}|https?://.+", raw["source"]):
            raise TypeError(f"source = {raw['source']}, wanted {SAMPLE} or a URL")
        return Lock(
            raw["release"],
            raw["arch"],
            raw["source"],
            dict(raw["index"]),
            {world: tuple(names) for world, names in raw["world"].items()},
            {
                world: tuple(sorted(_package(name, entry) for name, entry in some.items()))
                for world, some in raw["packages"].items()
            },
            Numbers(*(checked(raw.get(kind, {}), name) for kind in ("users", "groups"))),
            raw.get("numbered", ""),
            {kernel: _slot_mib(kernel, size) for kernel, size in raw.get("slot_mib", {}).items()},
        )
    except (tomli.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{name}: is damaged ({error!s}): bring it back from git: git checkout {name}. "
            "Without it, users, groups and slots would not be as on your nodes"
        ) from None


def _slot_mib(kernel: str, size: Any) -> int:
    if type(size) is not int or not SLOT_LEAST_MIB <= size <= SLOT_MOST_MIB:
        wanted = f"a whole number from {SLOT_LEAST_MIB} to {SLOT_MOST_MIB}"
        raise TypeError(f"[slot_mib] {kernel} = {size!r}, wanted {wanted}")
    return size


def _package(name: str, entry: Any) -> LockedPackage:
    kinds = [type(value) for value in entry]
    # Names and hashes become paths: a lock from elsewhere must lead nowhere else.
    if (
        kinds != [str, int, str, str]
        or not SAFE_NAME.fullmatch(name)
        or not SAFE_NAME.fullmatch(entry[0])
        or not SHA256.fullmatch(entry[2])
    ):
        raise TypeError(f"{name} = {entry}, wanted [version, bytes, SHA-256, repository]")
    return LockedPackage(name, *entry)
