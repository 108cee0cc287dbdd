"""docs/configuration.md has every key of image.toml as the code knows it, and every variable."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import tomli

from builder.core.config import AUTO, SECTIONS
from builder.core.paths import CONFIG_FILE, PROJECT, VARIABLES

PAGE = (PROJECT / "docs/configuration.md").read_text()
NOT_IN_TOML = {"built", "own", "others"}  # fields that no key has


def meanings() -> dict[tuple[str, str], str]:
    """What image.toml says of each key: behind it, or in the lines above it."""
    found, section, above = {}, "", list[str]()
    for line in CONFIG_FILE.read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif line.startswith("# "):
            above.append(line.removeprefix("# "))
            continue
        elif key := re.match(r"(\w+) = ", line):
            behind = line.rpartition("  # ")[2] if "  # " in line else " ".join(above)
            found[section, key[1]] = behind
        above = []
    return found


def allowed(kind: Any, rule: typing.Mapping[str, Any], default: Any) -> str:
    """What may stand there, in words."""
    if typing.get_origin(kind) is Literal:
        return " or ".join(f'"{choice}"' for choice in typing.get_args(kind))
    if kind is bool:
        return "true or false"
    if kind is int:
        auto = ', or "auto"' if default == AUTO and rule["least"] > AUTO else ""
        return f"a whole number from {rule['least']} to {rule['most']}{auto}"
    return f"{'' if kind is str else 'a list: '}{rule['wanted']}"


def shown(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(shown, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def rows() -> Iterator[str]:
    """The rows of the page, each with its section's heading before the first."""
    told, shipped = meanings(), tomli.loads(CONFIG_FILE.read_text())
    for section, cls in SECTIONS.items():
        yield f"## [{section}]"
        for key, kind in typing.get_type_hints(cls).items():
            if key in NOT_IN_TOML:
                continue
            rule = cls.__dataclass_fields__[key].metadata
            default = getattr(cls(), key)
            value = (
                '"auto"' if kind is int and default == AUTO and rule["least"] else shown(default)
            )
            given = shown(shipped.get(section, {}).get(key, default))
            values = f"`{value}`" if given == value else f"`{value}`; as shipped: `{given}`"
            cells = (f"`{key}`", allowed(kind, rule, default), values, told[section, key])
            yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


@pytest.mark.parametrize("row", list(rows()))
def test_every_key_is_there_as_it_is(row: str) -> None:
    assert f"\n{row}\n" in PAGE


def test_nothing_else_is_there() -> None:
    keys = re.findall(r"^(\| `[a-z_]+` \|.*|## \[\w+\])$", PAGE, re.MULTILINE)
    assert keys == list(rows())


def test_every_variable_is_there() -> None:
    assert set(re.findall(r"^\| `(BELAY_\w+)` \|", PAGE, re.MULTILINE)) == set(VARIABLES)
