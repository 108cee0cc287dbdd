"""Installs a release into files, as a process of its own whose memory can be told.

    python builder/benchmarks/apply.py ROOT URL VERSION

ROOT holds `esp`, `slot-a`, `slot-b` and `key.pub`. It prints the most memory that it had, in KiB.
"""

from __future__ import annotations

import sys
from pathlib import Path

from updater.boot import BootStateFile
from updater.memory import Memory
from updater.node import Node, System
from updater.settings import Settings
from updater.signature import read_keys
from updater.source import open_source
from updater.update import Updater


def main(root: Path, url: str, version: str) -> None:
    """Take that release."""
    node = Node(
        root=root,
        system=System("belay", "x86_64", "0.0.1", 0),
        settings=Settings(),
        slot="a",
        mode="good",
        partitions={f"slot-{name}": root / f"slot-{name}" for name in ("a", "b")},
        boot=BootStateFile(root / "esp"),
        keys=read_keys(root),
    )
    updater = Updater(node, open_source(url), Memory(node))
    updater.install(updater.manifest(version))


def most_memory() -> int:
    """What this process had at most, in KiB: its own count, which begins when it does."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4])
    print(most_memory())
