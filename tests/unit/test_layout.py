"""Where what lies on the disk."""

from __future__ import annotations

import pytest

from builder.core.config import AUTO, GIB, MIB, Alpine, Config, Disk
from builder.disk.layout import layout, sized, slot_mib_for
from updater.contract import PARTITIONS


@pytest.mark.parametrize(
    ("size", "mib"),
    [
        (0, 512),
        (171 * MIB, 512),
        (342 * MIB, 576),
        (512 * MIB, 768),  # no more than needed
        (512 * MIB + 1, 832),
        (874 * MIB, 1344),
        (60 * GIB, 64 * 1024),
    ],
)
def test_a_slot_has_half_of_its_content_left_to_grow(size: int, mib: int) -> None:
    assert slot_mib_for(size) == mib


def test_a_number_in_the_file_counts_more_than_the_lock() -> None:
    slots = {"virt": 640, "lts": 1344}
    auto, lts = Config(), Config(alpine=Alpine(kernel="lts"))
    assert sized(auto, slots).disk.slot_mib == 640
    assert sized(lts, slots).disk.slot_mib == 1344
    assert sized(Config(disk=Disk(slot_mib=320)), slots).disk.slot_mib == 320
    assert sized(auto, {"lts": 1344}).disk.slot_mib == AUTO, "not known yet"


def test_partitions_follow_each_other() -> None:
    disk = layout(sized(Config(), {"virt": 512}))
    ends = [partition.first + partition.sectors for partition in disk.partitions]
    assert [partition.first for partition in disk.partitions[1:]] == ends[:-1]
    names = [partition.name for partition in disk.partitions[1:]]
    assert names == list(PARTITIONS[1:]), "GRUB counts on their numbers"
    at = names.index("slot-a")
    assert names[at + 1] == "slot-b", "both are written together: builder/disk/assembly.py"
    assert names[-1] == "data", "it grows"
    assert disk["slot-a"].sectors == disk["slot-b"].sectors == 512 * MIB // 512
    assert disk.size_mib * MIB == (ends[-1] + 2048) * 512
