"""What is different between two releases: packages, and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Changes:
    """Packages by name: `added` and `removed` with a version, `changed` with both."""

    before: str
    after: str
    added: dict[str, str]
    removed: dict[str, str]
    changed: dict[str, tuple[str, str]]
    size_before: int
    size_after: int

    def lines(self) -> list[str]:
        """For people: a line a package."""
        lines = [f"+ {name} {version}" for name, version in self.added.items()]
        lines += [f"- {name} {version}" for name, version in self.removed.items()]
        lines += [f"  {name} {old} -> {new}" for name, (old, new) in self.changed.items()]
        grown = (self.size_after - self.size_before) / 1e6
        return [*sorted(lines, key=lambda line: line[2:]), f"  slot image: {grown:+.1f} MB"]


def versions(sbom: Mapping[str, Any]) -> dict[str, str]:
    """Name and version of every package in a parts list."""
    return {part["name"]: part["version"] for part in sbom.get("components", [])}


def changes(
    before: tuple[str, Mapping[str, str], int], after: tuple[str, Mapping[str, str], int]
) -> Changes:
    """Compare two releases, each a version, its packages, and the size of its slot image."""
    (old, old_packages, old_size), (new, new_packages, new_size) = before, after
    both = sorted(old_packages.keys() & new_packages.keys())
    return Changes(
        old,
        new,
        {name: new_packages[name] for name in sorted(new_packages.keys() - old_packages.keys())},
        {name: old_packages[name] for name in sorted(old_packages.keys() - new_packages.keys())},
        {
            name: (old_packages[name], new_packages[name])
            for name in both
            if old_packages[name] != new_packages[name]
        },
        old_size,
        new_size,
    )
