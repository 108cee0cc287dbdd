"""The frame: a disk image without its slots, for `belay install` on a system without a disk.

It is `frame.gz` beside the slot image, and its hash is on the kernel's command line as that of the
slot image is. Unpacked it is a line of JSON, then the bytes before the slots, then those behind.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

from updater.errors import Refused

FRAME_FILE = "frame.gz"
FRAME_SIZE_MAX = 256 << 20


@dataclass(frozen=True)
class Frame:
    """`slots` and `tail_at` are bytes from the disk's begin; `size` is the least it must have.

    `head` bytes lie before the slots; `content` has them, and then those behind the slots. It is
    read once: unpacked it is larger than some machines' memory.
    """

    slots: tuple[int, ...]
    head: int
    tail_at: int
    size: int
    content: io.BufferedIOBase


def frame_bytes(head: bytes, slots: Sequence[int], tail_at: int, tail: bytes) -> bytes:
    """A frame, not compressed yet: what lies before the `slots` and behind them (`tail_at`)."""
    size = tail_at + len(tail)
    values = {"head": len(head), "slots": list(slots), "tail_at": tail_at, "size": size}
    return json.dumps(values).encode() + b"\n" + head + tail


def read_frame(packed: bytes, sha256: str) -> Frame:
    """Check a frame and read what it says. Raises Refused."""
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise Refused("the frame of the disk is not the one that the command line names")
    content = gzip.GzipFile(fileobj=io.BytesIO(packed))
    values = json.loads(content.readline())
    return Frame(tuple(values["slots"]), values["head"], values["tail_at"], values["size"], content)
