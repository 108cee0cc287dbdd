"""The numbers of users and groups: the same in every release, as data on nodes outlives releases.

Scripts of packages take the next free number, so a package more or less would shift others. Each
name keeps the number that it had first; `apk.lock` has them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.errors import UserError

FIRST = 100  # below are those that Alpine gives out by hand; adduser begins here


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
    owner: dict[object, str] = {}
    for name, number in raw.items():
        if number in owner:
            raise UserError(
                f"{where}: {owner[number]} and {name} both have the number {number}; take out the "
                "one that was added last, and ./inv lock gives it another"
            )
        if not isinstance(number, int) or number < FIRST:
            raise UserError(f"{where}: {name} has {number!r}, wanted a number from {FIRST} up")
        owner[number] = name
    return {name: number for number, name in owner.items() if isinstance(number, int)}


def installed_numbers(passwd: str, group: str) -> Numbers:
    """The numbers in `/etc/passwd` and `/etc/group` that are not the same on every system."""
    users, groups = (
        {fields[0]: int(fields[2]) for fields in map(_fields, text.splitlines()) if fields}
        for text in (passwd, group)
    )
    return Numbers(*({n: i for n, i in some.items() if i >= FIRST} for some in (users, groups)))


def _fields(line: str) -> list[str]:
    fields = line.split(":")
    return fields if len(fields) > 2 and fields[2].isdigit() else []


def read_numbers(path: Path) -> Numbers:
    """The numbers that a step found."""
    return Numbers(**json.loads(path.read_text()))
