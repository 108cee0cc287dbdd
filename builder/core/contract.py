"""Renders what all agree on (`updater/contract.py`) for the shell and for GRUB."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterable

from updater import contract

# What the shell gets, by how the names begin; those that are paths are from the root on there.
PATHS = ("ETC", "RUN", "NODE_", "DATA_")
WORDS = ("ARGUMENT_", "EXIT_", "MARK_", "PARTITION_")


def for_shell() -> str:
    """The names and what they stand for, as lines NAME=VALUE."""
    lines = [
        "# What the builder, the boot loader, the services and the updater agree on. Made of",
        "# updater/contract.py, which says what each is. Sourced.",
        "# shellcheck shell=sh disable=SC2034 # for those who source it",
    ]
    for name, value in sorted(vars(contract).items()):
        if name.startswith((*PATHS, *WORDS)):
            lines.append(
                f"{name}={shlex.quote(f'/{value}' if name.startswith(PATHS) else str(value))}"
            )
    return "\n".join(lines) + "\n"


def for_grub() -> dict[str, str]:
    """The words of `grub.cfg.in`, without the @, and what they stand for."""
    slot_a, slot_b = contract.PARTITION_SLOT_A, contract.PARTITION_SLOT_B
    return {
        "GOOD_TRIES": str(contract.TRIES[contract.GOOD]),
        "SLOT_A_NUMBER": str(contract.PARTITIONS.index(slot_a) + 1),
        "SLOT_B_NUMBER": str(contract.PARTITIONS.index(slot_b) + 1),
        "TAKE_ONE_TRY": _steps("tries", "left", range(max(contract.TRIES.values()), -1, -1)),
        "RESCUES": str(contract.RESCUES),
        "COUNT_RESCUE": _steps("rescues", "counted", range(contract.RESCUES + 1)),
    }


def _steps(name: str, result: str, numbers: Iterable[int]) -> str:
    """Sets `result` to the number that follows on the one that `name` has: GRUB can't reckon."""
    rungs = [
        f'if [ "${name}" = {number} ]; then {result}={lower}'
        for number, lower in itertools.pairwise(numbers)
    ]
    return "\nel".join(rungs) + "\nfi"
