"""How long an update takes, beside plain tools that fetch, unpack, write, and read back."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from invoke.context import Context
from minisign import KeyPair

from builder.benchmarks import rauc
from builder.benchmarks.build import median_seconds
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
from updater.formats import Manifest

VERSION = "1.0.0"
SLOW_MB_S = 60
PLAIN = "curl -sf {url} | xz -dc | dd of={slot} bs=1M oflag=direct conv=notrunc,fsync 2>/dev/null"
READ_BACK = "dd if={slot} bs=1M count={size} iflag=count_bytes,direct 2>/dev/null | sha256sum"


@dataclass(frozen=True)
class Figure:
    """`value` in `unit`."""

    what: str
    value: float
    unit: str


def update_figures(c: Context, progress: Progress, times: int) -> list[Figure]:
    """Install what `build/slot.img` holds, into files."""
    build(c, "image", load_config())
    require_programs(["curl", "xz"])
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        progress.started("packing the slot image")
        manifest = _publish(folder / "server", folder / "node")
        progress.stopped("packing the slot image")
        _make_node(folder / "node", manifest.slot.size)
        with served(folder / "server") as port:
            url = f"http://127.0.0.1:{port}"
            figures = _by_tools(folder / "node", url, manifest, times)
            with slow_disk(folder, SLOW_MB_S) as within:
                if within:
                    figures += _by_tools(folder / "node", url, manifest, times, within)
            if rauc.is_installed():
                figures += _by_rauc(folder, url, progress, times)
    return [
        *figures,
        Figure("slot image", manifest.slot.size / 1e6, "MB"),
        Figure("to fetch", manifest.slot.blob.size / 1e6, "MB"),
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


def _publish(server: Path, node: Path) -> Manifest:
    store, pair = Store(server), KeyPair.generate()
    node.mkdir()
    (node / "key.pub").write_bytes(bytes(pair.public_key))
    slot = write_slot((BUILD / "slot.img").resolve(), store.blobs, load_config().publish.level)
    manifest = Manifest("belay", "x86_64", VERSION, 0, slot, {})
    store.add_release(manifest, functools.partial(signed, pair.secret_key))
    return manifest


def _make_node(node: Path, size: int) -> None:
    """Slots full of other bytes, and an ESP on which slot a is good."""
    with (BUILD / "disk.img").open("rb") as disk:
        esp = read_table(disk)["esp"]
        disk.seek(esp.offset)
        (node / "esp").write_bytes(disk.read(esp.size))
    for name in ("slot-a", "slot-b"):
        with (node / name).open("wb") as slot:
            for _ in range(-(-size // (1 << 20))):
                slot.write(b"\x55" * (1 << 20))
            os.fsync(slot.fileno())


def _plain(node: Path, url: str, manifest: Manifest, within: Sequence[str]) -> None:
    words = {
        "url": f"{url}/blobs/{manifest.slot.blob.sha256}",
        "slot": node / "slot-b",
        "size": manifest.slot.size,
    }
    script = f"{PLAIN.format(**words)} && {READ_BACK.format(**words)}"
    done = subprocess.run([*within, "sh", "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split()[0] == manifest.slot.sha256


def _apply(node: Path, url: str, within: Sequence[str]) -> int:
    """The most memory that it had, in KiB."""
    # As a script: as a module it would load all of `tasks`, which a node hasn't got.
    script = PROJECT / "builder/benchmarks/apply.py"
    command: list[str | Path] = [*within, sys.executable, script, node, url, VERSION]
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return int(done.stdout)
