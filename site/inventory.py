"""Reads inventory.toml: the nodes, their roles, their values."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import tomllib


class Node(NamedTuple):
    """A node: `roles` in the order in which they are applied; `values` are for templates."""

    name: str
    roles: tuple[str, ...]
    values: dict[str, str]


def read_inventory(path: Path) -> dict[str, Node]:
    """All nodes by name. A node takes the values of its groups, and its own before those."""
    raw = tomllib.loads(path.read_text())
    groups = raw.get("groups", {})
    nodes = {}
    for name, entry in raw.get("nodes", {}).items():
        roles, values = list(entry.get("roles", [])), {}
        for group in entry.get("groups", []):
            roles += groups[group].get("roles", [])
            values.update(groups[group].get("values", {}))
        values.update(entry.get("values", {}))
        nodes[name] = Node(name, tuple(dict.fromkeys(roles)), values)
    return nodes
