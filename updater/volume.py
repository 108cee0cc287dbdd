"""The partition `node` of this node's disk: the volume with the files that are its own.

Format: "FAT: General Overview of On-Disk Format", Microsoft 2000.
"""

from __future__ import annotations

from pathlib import Path

from updater.contract import (
    ETC_NODE_LABEL,
    PARTITION_NODE,
)
from updater.disk import ALIGNMENT, Disk
from updater.errors import Refused, UpdateError
from updater.node import Node

SIGNATURE_AT, SIGNATURE = 510, b"\x55\xaa"
LABEL_AT, LABEL_SIZE = 43, 11  # of FAT16


def write_volume(node: Node, data: bytes) -> Path:
    """Write a volume to the partition; which that is. Raises Refused where it is none.

    Its first sectors come last: what is cut off is no volume, and the node boots without a name.
    """
    partition = node.partitions.get(PARTITION_NODE)
    if partition is None:
        raise UpdateError(f"the disk has no partition {PARTITION_NODE}")
    wanted = (node.root / ETC_NODE_LABEL).read_text().strip()
    label = data[LABEL_AT : LABEL_AT + LABEL_SIZE].decode("ascii", "replace").strip()
    if data[SIGNATURE_AT : SIGNATURE_AT + 2] != SIGNATURE or label != wanted:
        raise Refused(f"what came is no volume labelled {wanted}: it was not written")
    with Disk(partition, exclusive=True) as disk:
        if len(data) > disk.size:
            raise Refused(f"{partition} has {disk.size} bytes, and {len(data)} came: not written")
        disk.write(0, bytes(ALIGNMENT))
        disk.flush()
        disk.write(ALIGNMENT, data[ALIGNMENT:])
        disk.flush()
        disk.write(0, data[:ALIGNMENT])
        disk.flush()
        if disk.read(0, len(data)) != data:
            raise UpdateError(f"{partition}: the disk does not keep what it is given")
    return partition
