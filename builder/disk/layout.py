"""Where everything lies on the disk, and the texts in which that is said to sfdisk and to GRUB."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from builder.core.config import AUTO, MIB, SLOT_MOST_MIB, Config
from builder.core.contract import for_grub
from builder.core.errors import UserError
from builder.core.paths import PROJECT
from builder.disk.boards import board_of
from updater.contract import (
    PARTITION_DATA,
    PARTITION_ESP,
    PARTITION_NODE,
    PARTITION_SLOT_A,
    PARTITION_SLOT_B,
    PARTITIONS,
)

TEMPLATE = PROJECT / "grub.cfg.in"
NAMESPACE = uuid.UUID("6f3a1d0e-5c1e-4c39-9a53-7f1a3b0a7b11")  # of all ids that are derived
SECTOR = 512
SECTORS_PER_MIB = 2048
BIOS_FIRST_SECTOR = 34  # right behind the partition table
ESP_MIB = 64
NODE_MIB = 8
FILES_MIB = 256  # the most that the files on the partition data get: they grow at the first boot
SLOT_AUTO_MIB, SLOT_UNIT_MIB = 512, 64  # of what the build finds by itself: at least, and steps
PANIC_S = 5

_LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
_TYPES = {
    "bios": "21686148-6449-6E6F-744E-656564454649",
    PARTITION_ESP: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    PARTITION_SLOT_A: _LINUX,
    PARTITION_SLOT_B: _LINUX,
    PARTITION_NODE: "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",  # other systems show it as a drive
    PARTITION_DATA: _LINUX,
}


@dataclass(frozen=True)
class Partition:
    """A partition: `first` and `sectors` in sectors of 512 bytes."""

    name: str
    first: int
    sectors: int
    guid: str

    @property
    def type_guid(self) -> str:
        """What the partition is for, as GPT says it."""
        return _TYPES[self.name]


@dataclass(frozen=True)
class Layout:
    """The disk: its partitions in order, its GUID, its size in MiB."""

    partitions: tuple[Partition, ...]
    guid: str
    size_mib: int

    def __getitem__(self, name: str) -> Partition:
        return next(partition for partition in self.partitions if partition.name == name)


def derived_guid(config: Config, name: str) -> str:
    """A GUID that is the same wherever the same system is built."""
    return str(uuid.uuid5(NAMESPACE, f"{config.os.name}/{name}"))


def sized(config: Config, slots: Mapping[str, int]) -> Config:
    """`config` with a number as size of a slot: by kernel, from the lock.

    Where it isn't known yet it stays AUTO, and a slot has room for anything.
    """
    slot_mib = config.disk.slot_mib or slots.get(config.alpine.kernel, AUTO)
    return replace(config, disk=replace(config.disk, slot_mib=slot_mib))


def slot_mib_for(size: int) -> int:
    """How many MiB a slot gets whose content has `size` bytes: half as much is left to grow."""
    units = math.ceil(size * 1.5 / (SLOT_UNIT_MIB * MIB))
    return min(max(SLOT_AUTO_MIB, units * SLOT_UNIT_MIB), SLOT_MOST_MIB)


def layout(config: Config) -> Layout:
    """The disk of a `sized` config."""
    sizes = {
        PARTITION_ESP: ESP_MIB,
        PARTITION_SLOT_A: config.disk.slot_mib,
        PARTITION_SLOT_B: config.disk.slot_mib,
        PARTITION_NODE: NODE_MIB,
        PARTITION_DATA: config.disk.data_mib,
    }

    def place() -> Iterator[Partition]:
        first = SECTORS_PER_MIB
        yield Partition(
            "bios", BIOS_FIRST_SECTOR, first - BIOS_FIRST_SECTOR, derived_guid(config, "bios")
        )
        for name in PARTITIONS[1:]:
            sectors = sizes[name] * SECTORS_PER_MIB
            yield Partition(name, first, sectors, derived_guid(config, name))
            first += sectors

    # One MiB before the partitions, and one behind for the second partition table.
    return Layout(tuple(place()), derived_guid(config, "disk"), sum(sizes.values()) + 2)


def sfdisk_script(disk: Layout) -> str:
    """What sfdisk reads to make the partition table."""
    lines = ["label: gpt", f"label-id: {disk.guid}", f"first-lba: {BIOS_FIRST_SECTOR}", ""]
    lines += [
        f"start={p.first}, size={p.sectors}, type={p.type_guid}, uuid={p.guid}, name={p.name}"
        for p in disk.partitions
    ]
    return "\n".join(lines) + "\n"


def grub_config(config: Config, disk: Layout) -> str:
    """`grub.cfg`, out of `grub.cfg.in`."""
    board = board_of(config)
    values = {
        "CMDLINE": config.cmdline,
        "PANIC_S": str(PANIC_S),
        "DEVICETREE": board.grub if board else "",
        **for_grub(),
    }

    def fill(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UserError(
                f"grub.cfg.in: unknown word {match[0]}", f"known are {', '.join(values)}"
            )
        return values[match[1]]

    return re.sub(r"@([A-Z_]+)@", fill, TEMPLATE.read_text())
