"""Which module may import which: tasks use the builder, and the builder the updater; never back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.core.paths import PROJECT

# Each may import those behind it, and itself.
ROOMS = ("tasks", "builder", "updater")


def modules() -> dict[str, Path]:
    """The source of each module, by its name."""
    found = {}
    for room in ROOMS:
        for path in (PROJECT / room).rglob("*.py"):
            parts = path.relative_to(PROJECT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """The project's own modules that a module imports, at its start or in a function."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: imports name the whole module"
            within = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in within]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in ROOMS)


IMPORTS = {name: set(imports(name)) for name in MODULES}


def test_what_is_imported_is_there() -> None:
    assert len(MODULES) > 100
    assert {name for found in IMPORTS.values() for name in found} <= MODULES.keys()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_lead_from_tasks_to_the_builder_to_the_updater(name: str) -> None:
    room = name.split(".", maxsplit=1)[0]
    for found in IMPORTS[name]:
        other = found.split(".")[0]
        assert ROOMS.index(room) <= ROOMS.index(other), f"{name} imports {found}"
        assert room != "tasks" or other != "tasks", f"{name} imports {found}: tasks lend nothing"


def test_no_imports_lead_in_a_circle() -> None:
    done: set[str] = set()

    def follow(path: tuple[str, ...]) -> None:
        for found in IMPORTS[path[-1]] - done:
            assert found not in path, " -> ".join((*path[path.index(found) :], found))
            follow((*path, found))
        done.add(path[-1])

    for name in MODULES:
        follow((name,))
