"""How long an update takes, beside plain tools that fetch, unpack, write, and read back."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from invoke.context import Context
from minisign import KeyPair

from builder.benchmarks import rauc
from builder.benchmarks.build import median_seconds
from builder.benchmarks.deltas import NEW, Case, busybox_of, cases, sizes
from builder.benchmarks.figure import Figure
from builder.benchmarks.slow_disk import slow_disk
from builder.core.config import load_config
from builder.core.host import require_programs
from builder.core.paths import BUILD, CACHE, PROJECT
from builder.core.progress import Progress
from builder.core.serve import served
from builder.disk.table import read_table
from builder.releases.chunks import write_slot
from builder.releases.keys import signed
from builder.releases.store import Store
from builder.steps.plan import build
from updater.formats import Manifest, SlotImage

VERSION = "1.0.0"
SLOW_MB_S, SLOWER_MB_S = 60, 20
PLAIN = "curl -sf {url} | xz -dc | dd of={slot} bs=1M oflag=direct conv=notrunc,fsync 2>/dev/null"
READ_BACK = "dd if={slot} bs=1M count={size} iflag=count_bytes,direct 2>/dev/null | sha256sum"


def update_figures(c: Context, progress: Progress, times: int) -> list[Figure]:
    """Install what `build/slot.img` holds, into files."""
    build(c, "image", load_config())
    require_programs(["curl", "xz"])
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        server, pair = Store(folder / "server"), KeyPair.generate()
        progress.started("packing the slot image")
        image = write_slot(
            (BUILD / "slot.img").resolve(), server.blobs, load_config().publish.level
        )
        manifest = _publish(server, pair, VERSION, image)
        progress.stopped("packing the slot image")
        (folder / "node").mkdir()
        (folder / "node/key.pub").write_bytes(bytes(pair.public_key))
        _make_node(folder / "node", manifest.slot.size)
        by_delta = []
        kernel, *others = cases(c, folder, server, progress)
        by_delta += [figure for case in (kernel, *others) for figure in sizes(case, folder)]
        _publish(server, pair, NEW, kernel.image)
        with served(folder / "server") as port:
            url = f"http://127.0.0.1:{port}"
            figures = _by_tools(folder / "node", url, manifest, times)
            with slow_disk(folder, SLOW_MB_S) as within:
                if within:
                    figures += _by_tools(folder / "node", url, manifest, times, within)
            for speed in (SLOW_MB_S, SLOWER_MB_S):
                with slow_disk(folder, speed) as within:
                    if within:
                        found = _by_delta(folder, url, manifest, kernel, times, within)
                        how = f", disk at {speed} MB/s"
                        by_delta += [replace(item, what=f"{item.what}{how}") for item in found]
            if rauc.is_installed():
                figures += _by_rauc(folder, url, progress, times)
            else:
                figures.append(Figure("RAUC: it is not installed", float("nan"), "s"))
    return [
        *figures,
        Figure("slot image", manifest.slot.size / 1e6, "MB"),
        Figure("to fetch", manifest.slot.blob.size / 1e6, "MB"),
        *by_delta,
    ]


def _by_tools(
    node: Path, url: str, manifest: Manifest, times: int, within: Sequence[str] = ()
) -> list[Figure]:
    """By plain tools and by belay, with the words `within` before either."""
    how = f", disk at {SLOW_MB_S} MB/s" if within else ""
    memory = 0

    def apply() -> None:
        nonlocal memory
        memory = max(memory, _apply(node, url, within))

    plain = median_seconds(times, lambda: _plain(node, url, manifest, within))
    applied = median_seconds(times, apply, lambda: _make_node(node, manifest.slot.size))
    return [
        Figure(f"plain tools{how}", plain, "s"),
        Figure(f"belay update{how}", applied, "s"),
        Figure(f"of plain tools{how}", applied / plain, ""),
        Figure(f"memory of belay update{how}", memory / 1024, "MiB"),
    ]


def _by_delta(
    folder: Path, url: str, manifest: Manifest, case: Case, times: int, within: Sequence[str]
) -> list[Figure]:
    """An update to another kernel, beside plain tools that fetch all of it."""
    node, memory = folder / "node", 0
    env = busybox_of(case.old, folder)

    def apply() -> None:
        nonlocal memory
        memory = max(memory, _apply(node, url, within, NEW, env))

    def renew() -> None:
        _make_node(node, case.image.size, case.old)

    plain = median_seconds(times, lambda: _plain(node, url, manifest, within))
    applied = median_seconds(times, apply, renew)
    return [
        Figure(f"{case.what}: plain tools", plain, "s"),
        Figure(f"{case.what}: by delta", applied, "s"),
        Figure(f"{case.what}: by delta, of plain tools", applied / plain, ""),
        Figure(f"{case.what}: by delta, memory", memory / 1024, "MiB"),
    ]


def _by_rauc(folder: Path, url: str, progress: Progress, times: int) -> list[Figure]:
    progress.started("packing a bundle of RAUC")
    rauc.make_bundle(folder / "rauc", BUILD / "slot.img", folder / "server")
    progress.stopped("packing a bundle of RAUC")
    figures = rauc.install_bundle(folder / "rauc", folder / "node", url, times)
    return [
        Figure("RAUC: fetch and install", figures.seconds, "s"),
        Figure("RAUC: memory", figures.memory_mib, "MiB"),
        Figure("RAUC: to fetch", figures.bundle_mb, "MB"),
    ]


def _publish(store: Store, pair: KeyPair, version: str, image: SlotImage) -> Manifest:
    manifest = Manifest("belay", "x86_64", version, 0, image, {})
    store.add_release(manifest, functools.partial(signed, pair.secret_key))
    return manifest


def _make_node(node: Path, size: int, active: Path | None = None) -> None:
    """Slots full of other bytes, or with `active` in slot a; and an ESP on which that is good."""
    with (BUILD / "disk.img").open("rb") as disk:
        esp = read_table(disk)["esp"]
        disk.seek(esp.offset)
        (node / "esp").write_bytes(disk.read(esp.size))
    for name in ("slot-a", "slot-b"):
        with (node / name).open("wb") as slot:
            for _ in range(-(-size // (1 << 20))):
                slot.write(b"\x55" * (1 << 20))
            os.fsync(slot.fileno())
    if active:
        shutil.copyfile(active, node / "slot-a")


def _plain(node: Path, url: str, manifest: Manifest, within: Sequence[str]) -> None:
    words = {
        "url": f"{url}/blobs/{manifest.slot.blob.sha256}",
        "slot": node / "slot-b",
        "size": manifest.slot.size,
    }
    script = f"{PLAIN.format(**words)} && {READ_BACK.format(**words)}"
    done = subprocess.run([*within, "sh", "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split()[0] == manifest.slot.sha256


def _apply(
    node: Path,
    url: str,
    within: Sequence[str],
    version: str = VERSION,
    more: Mapping[str, str] | None = None,
) -> int:
    """The most memory that it had, in KiB."""
    # As a script: as a module it would load all of `tasks`, which a node hasn't got.
    script = PROJECT / "builder/benchmarks/apply.py"
    command: list[str | Path] = [*within, sys.executable, script, node, url, version]
    env = {**os.environ, "PYTHONPATH": str(PROJECT), **(more or {})}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return int(done.stdout)
