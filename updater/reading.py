"""Reads files that may hold anything: within bounds, each field checked."""

import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from updater.errors import printable

REASON_MAX = 4000  # characters
TIME_MAX = 253_402_300_799  # the end of the year 9999
Fields = TypeVar("Fields")


def read_file(path: Path, most: int) -> bytes:
    """A file. Raises OSError; ValueError where it is none, or has more than `most` bytes."""
    # A pipe that nobody writes to would be waited for.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no file")
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most} bytes")
    return data


def read_object(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError where it is none."""
    try:
        values = json.loads(data)
    except RecursionError:
        raise ValueError("its values are nested too deep") from None
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    return values


def checked(kind: Callable[..., Fields], values: Mapping[str, Any]) -> Fields | None:
    """A NamedTuple of plain fields out of JSON; None where one of them makes no sense."""
    kinds = kind.__annotations__
    given = {name: values[name] for name in kinds if name in values}
    for name, value in given.items():
        if type(value) is not kinds[name]:
            return None
        if isinstance(value, str) and value != printable(value, REASON_MAX):
            return None
        if isinstance(value, int) and not 0 <= value <= TIME_MAX:
            return None
    try:
        return kind(**given)
    except TypeError:  # one is missing
        return None
