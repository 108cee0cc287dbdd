"""How long builds take, beside the tools alone and beside an ISO as it is usually made."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from builder.alpine.apk import options
from builder.benchmarks.script import run_script
from builder.core.config import load_config
from builder.core.errors import UserError
from builder.core.files import remove_tree
from builder.core.host import require_program
from builder.core.paths import CACHE, LOCK_FILE, PROJECT
from builder.core.progress import Progress
from builder.engines.bubblewrap import Bubblewrap
from builder.engines.choose import ENGINES
from builder.steps.plan import Plan, plan_for

ADDED_PACKAGE = "dosfstools"
FLOOR = "the tools alone"


@dataclass(frozen=True)
class Timing:
    """A build of kind `what`: the median of its times in seconds."""

    what: str
    seconds: float
    times: int


def build_timings(progress: Progress, times: int) -> Iterator[Timing]:
    """Measure each kind of build `times` times."""
    plan = plan_for(load_config(), ["image"], progress)
    yield _timed(FLOOR, times, lambda: _run_bare("floor", plan))
    yield _timed("an ISO, compressed with xz", 1, lambda: _make_iso(plan))
    for engine in filter(_works, ENGINES):
        with checkout(engine) as project:
            project.build()  # what is made once: the container, and the daemon's copy of it
            yield _timed(f"{engine}: everything", times, project.build, project.forget)
            yield _timed(f"{engine}: a file changed", times, project.build, project.touch)
            yield _timed(f"{engine}: nothing changed", times, project.build)
            project.add_package()
            yield _timed(f"{engine}: a package added", 1, project.build)


def _timed(
    what: str, times: int, action: Callable[[], None], before: Callable[[], None] | None = None
) -> Timing:
    return Timing(what, median_seconds(times, action, before), times)


def median_seconds(
    times: int, action: Callable[[], None], before: Callable[[], None] | None = None
) -> float:
    """How long `action` takes; `before` prepares each time, and doesn't count."""
    seconds = []
    for _ in range(times):
        if before:
            before()
        start = time.monotonic()
        action()
        seconds.append(time.monotonic() - start)
    return statistics.median(seconds)


def _works(engine: str) -> bool:
    try:
        return bool(ENGINES[engine]().check())
    except UserError:
        return False


def _run_bare(name: str, plan: Plan, out: Path | None = None) -> None:
    """Run a script of this folder on what goes into a build."""
    config = plan.config
    system = plan.steps["chroot"].paths(Path())
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        run_script(
            replace(plan, engine=Bubblewrap()),
            name,
            out or Path(folder),
            {
                "packages": system["packages"],
                "keys": system["keys"],
                "init": PROJECT / "initramfs" / "init",
                "features": PROJECT / "initramfs" / "features",
            },
            {
                "APK_OPTIONS": " ".join(options(config.alpine.arch)),
                "FEATURES": " ".join(config.boot.features),
                "SLOT_MIB": str(config.disk.slot_mib),
                "DATA_MIB": str(config.disk.data_mib),
            },
        )


def _make_iso(plan: Plan) -> None:
    xorriso = require_program("xorriso")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        _run_bare("iso", plan, Path(folder))
        words = [xorriso, "-as", "mkisofs", "-quiet", "-o", f"{folder}/belay.iso", f"{folder}/iso"]
        subprocess.run(words, check=True, capture_output=True)


class Checkout:
    """A copy of the project, in which files can be changed; with a cache of its own or ours."""

    def __init__(self, folder: Path, engine: str, own_cache: bool) -> None:
        self.root, self.cache = folder / "project", folder / "cache" if own_cache else CACHE
        self.output, self.changes = folder / "build", 0
        self.env = {
            **os.environ,
            "BELAY_BUILD_ENGINE": engine,
            "BELAY_CACHE": str(self.cache),
            "BELAY_LOCK": str(folder / "apk.lock"),
            "BELAY_OUTPUT": str(self.output),
        }
        names = ("build", ".git", ".venv", "*.pyc", ".*_cache")
        shutil.copytree(PROJECT, self.root, ignore=shutil.ignore_patterns(*names))
        (self.root / ".venv").symlink_to(PROJECT / ".venv")
        self.lock = Path(shutil.copy(LOCK_FILE, folder / "apk.lock"))
        if not own_cache:
            return
        self.cache.mkdir()
        for path in CACHE.iterdir():
            if path.is_dir() and path.name not in ("results", "locks") and path != folder:
                shutil.copytree(path, self.cache / path.name, symlinks=True)

    def inv(self, *words: str) -> None:
        done = subprocess.run(
            [self.root / "inv", *words], env=self.env, cwd=self.root, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise UserError(f"inv {' '.join(words)} failed:\n{done.stderr}")

    def build(self) -> None:
        self.inv("image")

    def forget(self) -> None:
        remove_tree(self.cache / "results")

    def touch(self) -> None:
        self.changes += 1
        (self.root / "rootfs/overlay/etc/changed").write_text(f"{self.changes}\n")

    def add_package(self, name: str = ADDED_PACKAGE) -> None:
        with (self.root / "rootfs/world").open("a") as world:
            world.write(f"{name}\n")
        self.inv("lock")


@contextmanager
def checkout(engine: str, own_cache: bool = True) -> Iterator[Checkout]:
    """A copy of the project that is there for a while; its steps run in `engine`."""
    folder = Path(tempfile.mkdtemp(dir=CACHE, prefix="bench-"))
    try:
        yield Checkout(folder, engine, own_cache)
    finally:
        remove_tree(folder)
