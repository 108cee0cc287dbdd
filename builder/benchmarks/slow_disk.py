"""A disk that is as slow as those of small machines, by the kernel's control groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
ENTER = 'echo $$ >"$0" && exec "$@"'


@contextmanager
def slow_disk(folder: Path, mb_s: int) -> Iterator[list[str]]:
    """The words before a command that is to read and write the disk of `folder` at `mb_s` MB/s.

    No words where that can't be had: it takes root, and a controller of block devices.
    Sources: cgroup-v1/blkio-controller.rst and cgroup-v2.rst of the kernel's documentation.
    """
    top = GROUPS / "blkio" if (GROUPS / "blkio").is_dir() else GROUPS
    group = top / f"belay-bench-{os.getpid()}"
    disk, rate = _disk_of(folder), mb_s * 1_000_000
    try:
        if top == GROUPS:
            (top / "cgroup.subtree_control").write_text("+io")
            group.mkdir()
            (group / "io.max").write_text(f"{disk} rbps={rate} wbps={rate}")
        else:
            group.mkdir()
            for what in ("read", "write"):
                (group / f"blkio.throttle.{what}_bps_device").write_text(f"{disk} {rate}")
        words = ["sh", "-c", ENTER, str(group / "cgroup.procs")]
    except OSError:
        words = []
    try:
        yield words
    finally:
        with suppress(OSError):
            group.rmdir()


def _disk_of(folder: Path) -> str:
    """The numbers, such as 254:0, of the whole disk that has a folder."""
    device = folder.stat().st_dev
    entry = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    whole = entry.parent if (entry / "partition").exists() else entry
    return (whole / "dev").read_text().strip() if (whole / "dev").exists() else "0:0"
