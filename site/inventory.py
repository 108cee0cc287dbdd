"""Reads inventory.toml: the nodes, their roles, their values."""

from __future__ import annotations

import marshal
import os


class Node:
    """A node: `roles` in the order in which they are applied; `values` are for templates."""

    def __init__(self, name: str, roles: tuple[str, ...], values: dict[str, str]) -> None:
        self.name, self.roles, self.values = name, roles, values


def read_node(site: str, name: str) -> Node:
    """A node takes the values of its groups, and its own before those; one without entry none."""
    raw = _inventory(site)
    groups, entry = raw.get("groups", {}), raw.get("nodes", {}).get(name, {})
    roles, values = list(entry.get("roles", [])), {}
    for group in entry.get("groups", []):
        roles += groups[group].get("roles", [])
        values.update(groups[group].get("values", {}))
    values.update(entry.get("values", {}))
    return Node(name, tuple(dict.fromkeys(roles)), values)


def _inventory(site: str) -> dict:
    """What inventory.toml says. Kept parsed, as Python keeps its modules: TOML takes time."""
    path, cached = f"{site}/inventory.toml", f"{site}/__pycache__/inventory"
    seen = os.stat(path)
    stamp = [seen.st_mtime_ns, seen.st_size]
    try:
        with open(cached, "rb") as file:
            of, raw = marshal.load(file)
        if of == stamp:
            return raw
    except (OSError, EOFError, ValueError, TypeError):
        pass
    import tomllib

    with open(path, "rb") as file:
        raw = tomllib.load(file)
    try:
        data = marshal.dumps([stamp, raw])
        os.makedirs(f"{site}/__pycache__", exist_ok=True)
        with open(f"{cached}.new", "wb") as file:
            file.write(data)
        os.replace(f"{cached}.new", cached)
    except (OSError, ValueError):
        pass  # then the next one parses again
    return raw
