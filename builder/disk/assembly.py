"""Puts together on the host what would only be carried into a container and out again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from builder.core.files import copy_sparse_to
from builder.disk.table import read_table
from updater.contract import (
    PARTITION_SLOT_A,
    PARTITION_SLOT_B,
)

BLOCK = 1 << 20
HEAD, TAIL, END = "frame.head", "frame.tail", "frame.end"


def join_parts(folder: Path, inputs: Mapping[str, Path]) -> None:
    """Make `slot.img` of its three parts.

    mksquashfs pads to 4096 bytes, so each begins where the format wants it (updater/slot.py).
    """
    boot = folder / "boot.squashfs"
    with (folder / "slot.img").open("wb") as slot:
        for path in (boot, inputs["root.squashfs"], inputs["modloop.squashfs"]):
            with path.open("rb") as part:
                shutil.copyfileobj(part, slot, BLOCK)


def join_disk(folder: Path, inputs: Mapping[str, Path]) -> None:
    """Make `disk.img` of what comes before the slots, both slots, what is behind, and its end."""
    with inputs[HEAD].open("rb") as head:
        table = read_table(head)
    slots = [table[name] for name in (PARTITION_SLOT_A, PARTITION_SLOT_B)]
    end = max(partition.end for partition in table.values())
    with (folder / "disk.img").open("wb") as disk:
        for path, offset in (
            (inputs[HEAD], 0),
            *((inputs["slot.img"], slot.offset) for slot in slots),
            (inputs[TAIL], slots[-1].end),
            (inputs[END], end),
        ):
            disk.seek(offset)
            with path.open("rb") as part:
                copy_sparse_to(disk, part)
