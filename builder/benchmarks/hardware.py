"""What it takes to build with a kernel for real machines: time, memory, and room on the disk."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.benchmarks.build import checkout
from builder.benchmarks.lts import Shape, real_kernel, virt_package
from builder.benchmarks.script import run_script
from builder.core.config import MIB, load_config
from builder.core.paths import CACHE
from builder.core.progress import Progress
from builder.core.serve import served
from builder.sample.mirror import sample_key, sample_mirror, write_repository
from builder.steps.plan import plan_for

RELEASE = "3.23"
COMMUNITY = f"v{RELEASE}/community/x86_64"
# Larger than Alpine's of November 2026, which has 4,216 modules.
SHAPE = Shape(6000, 3500, 2800, module_bytes=100_000, firmware_bytes=140_000)
POLL_S = 0.02


@dataclass(frozen=True)
class Usage:
    """What something took: seconds, the most memory in MiB, and the size of its result in MiB."""

    what: str
    seconds: float
    memory_mib: float
    result_mib: float


def hardware_usages(progress: Progress) -> Iterator[Usage]:
    """A build with a kernel made for this, its modloop step, and the same by the tools alone."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="bench-") as name:
        folder = Path(name)
        progress.started("making a kernel with 6,000 modules")
        mirror = _mirror(folder / "mirror")
        progress.stopped("making a kernel with 6,000 modules")
        with served(mirror) as port, checkout("bubblewrap") as project:
            project.env |= {
                "BELAY_ALPINE_MIRROR": f"http://127.0.0.1:{port}",
                "BELAY_ALPINE_KEYS": str(mirror / "keys"),
                "BELAY_ALPINE_KERNEL": "lts",
            }
            project.inv("fetch")
            slot, modules = project.output / "slot.img", project.output / "modules.tar"
            yield _used("everything", project.build, slot)
            part = project.output / "modloop.squashfs"
            yield _used("modloop", lambda: project.inv("modloop", "--force"), part)
            plan = plan_for(load_config(), ["chroot"], progress)
            out = folder / "out"
            out.mkdir()
            inputs = {"modules.tar": modules.resolve()}
            yield _used(
                "modloop by the tools alone",
                lambda: run_script(plan, "modloop", out, inputs, {}),
                out / "modloop",
            )


def _mirror(folder: Path) -> Path:
    """The sample's mirror, with the kernel for real machines among its packages."""
    shutil.copytree(sample_mirror(RELEASE), folder)
    kernel = real_kernel(virt_package(), SHAPE)
    write_repository(folder / COMMUNITY, kernel.drafts, sample_key())
    return folder


def _used(what: str, action: Callable[[], None], result: Path) -> Usage:
    start = time.monotonic()
    with _memory() as most:
        action()
    seconds = time.monotonic() - start
    return Usage(what, seconds, most[0] / MIB, result.stat().st_size / MIB)


@contextmanager
def _memory() -> Iterator[list[int]]:
    """The most memory, in bytes, that this machine needed beyond what it needed before."""
    before, most, done = _needed(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(POLL_S):
            most[0] = max(most[0], _needed() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        done.set()
        watcher.join()


def _needed() -> int:
    """What programs and files in memory take, which can't be had by forgetting something."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    return (kib["AnonPages"] + kib["Shmem"]) * 1024
