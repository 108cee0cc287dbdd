"""The numbers of users and groups: the same in every release, as data on nodes outlives releases.

Scripts of packages take the next free number, so a package more or less would shift others. Each
name keeps the number that it had first; `apk.lock` has them.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.core.errors import UserError

FIRST = 100  # below are those that Alpine gives out by hand; adduser begins here
LAST = (1 << 31) - 1  # what all programs take
USER_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*\$?", re.ASCII)


@dataclass(frozen=True)
class Numbers:
    """Numbers by name, of users and of groups."""

    users: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)

    def with_new(self, found: Numbers) -> Numbers:
        """These, and of `found` those whose names are new: with their number, if it is free."""
        return Numbers(
            _with_new(self.users, found.users),
            _with_new(self.groups, found.groups),
        )

    def lines(self) -> str:
        """For `rootfs/numbers.awk`: `user:NAME:NUMBER`."""
        users = [f"user:{name}:{number}\n" for name, number in self.users.items()]
        return "".join(users + [f"group:{name}:{number}\n" for name, number in self.groups.items()])

    def changes(self, new: Numbers) -> list[str]:
        """What is in `new` and not here, a line each."""
        kinds = (("user", self.users, new.users), ("group", self.groups, new.groups))
        return [
            f"{kind} {name} has number {numbers[name]}"
            for kind, before, numbers in kinds
            for name in numbers
            if name not in before
        ]


def _with_new(kept: Mapping[str, int], found: Mapping[str, int]) -> dict[str, int]:
    numbers = dict(kept)
    free = (n for n in itertools.count(FIRST) if n not in {*kept.values(), *found.values()})
    for name, number in found.items():
        if name not in kept:
            numbers[name] = next(free) if number in numbers.values() else number
    return dict(sorted(numbers.items(), key=lambda item: item[1]))


def checked(raw: Mapping[str, object], where: str) -> dict[str, int]:
    """A table of a lock. Raises UserError where two names have one number."""
    found: dict[str, int] = {}
    for name, number in raw.items():
        if not isinstance(number, int) or not FIRST <= number <= LAST:
            raise UserError(
                f"{where}: {name} has {number!r}, wanted a number from {FIRST} to {LAST}"
            )
        found[name] = number
    _unique(
        found, f"{where}: take out the one that was added last, and ./inv lock gives it another"
    )
    return found


def _unique(numbers: Mapping[str, int], remedy: str) -> None:
    owner: dict[int, str] = {}
    for name, number in numbers.items():
        if (other := owner.setdefault(number, name)) != name:
            raise UserError(f"{other} and {name} both have the number {number}", remedy)


def installed_numbers(passwd: str, group: str) -> Numbers:
    """The numbers in `/etc/passwd` and `/etc/group` that are not the same on every system.

    Raises UserError for names that could be in no table, and for two names of one number.
    """
    tables = []
    for kind, text in (("users", passwd), ("groups", group)):
        rows = [line.split(":") for line in text.split("\n")]
        found = {f[0]: int(f[2]) for f in rows if len(f) > 2 and f[2].isascii() and f[2].isdigit()}
        found = {name: number for name, number in found.items() if number >= FIRST}
        for name, number in found.items():
            if not USER_NAME.fullmatch(name) or number > LAST:
                raise UserError(
                    f"a package has {name!r} with the number {number} among its {kind}",
                    "wanted are "
                    f"names of ASCII letters, digits, and . _ -, and numbers up to {LAST}",
                )
        _unique(found, f"scripts of packages gave it to both {kind}; leave one of the packages out")
        tables.append(found)
    return Numbers(*tables)


def read_numbers(path: Path) -> Numbers:
    """The numbers that a step found."""
    return Numbers(**json.loads(path.read_text()))
