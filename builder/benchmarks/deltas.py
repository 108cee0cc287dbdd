"""What an update costs in bytes, by delta and by what others have for the same two slots."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from invoke.context import Context

from builder.alpine.lock import lock_file
from builder.benchmarks.build import checkout
from builder.benchmarks.figure import Figure
from builder.core.config import Config, load_config
from builder.core.errors import UserError
from builder.core.host import require_program
from builder.core.paths import BUILD
from builder.core.progress import Progress
from builder.releases.chunks import write_slot
from builder.releases.deltas import Slots, make_delta
from builder.releases.proof import programs_of
from builder.releases.ranges import regions
from builder.releases.store import Store
from builder.releases.streams import streams
from builder.steps.plan import build, plan_for
from updater.formats import Manifest, SlotImage, render

OLD, NEW = "0.0.1", "1.1.0"
OLD_ALPINE = "3.23.5"  # which the sample has beside a newer one, with another kernel


@dataclass(frozen=True)
class Case:
    """Two slot images, and the new one with a delta from the old one."""

    what: str
    old: Path
    new: Path
    image: SlotImage
    seconds: float  # of processor time that the delta took


def cases(c: Context, folder: Path, store: Store, progress: Progress) -> Iterator[Case]:
    """New kernels, changed files, other packages; their blobs are put into `store`."""
    config = load_config()
    new = replace(config, os=replace(config.os, version=NEW))
    sample = replace(config.alpine, mirror="sample", release=OLD_ALPINE)
    before = {
        "a new kernel": replace(config, alpine=sample),
        "one file": replace(config, update=replace(config.update, interval_s=7201)),
        "the version": config,
    }
    slot = _slot(c, new, folder / "new")
    lock = lock_file(before["a new kernel"])
    had_lock = lock.exists()
    for what, older in before.items():
        old = _slot(c, replace(older, os=replace(older.os, version=OLD)), folder / what)
        progress.started("delta", what)
        yield _case(what, old, slot, store, new, progress)
        progress.stopped("delta")
    if not had_lock:
        lock.unlink()
    build(c, "image", config)  # build/ holds it again
    for what, old, slot in _with_other_packages(folder):
        progress.started("delta", what)
        yield _case(what, old, slot, store, new, progress)
        progress.stopped("delta")


def _with_other_packages(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """What changes, the slot before and the slot after; all of the sample mirror."""
    with checkout("auto", own_cache=False) as copy:

        def slot(version: str, what: str) -> Path:
            copy.env["BELAY_OS_VERSION"] = version
            copy.inv("slot")
            return Path(shutil.copyfile(copy.output / "slot.img", folder / f"{version} {what}"))

        copy.env["BELAY_ALPINE_MIRROR"] = "sample"
        copy.inv("lock")
        copy.env["BELAY_ALPINE_RELEASE"] = OLD_ALPINE
        copy.inv("lock")
        del copy.env["BELAY_ALPINE_RELEASE"]
        lock = copy.lock.read_text()
        older = copy.lock.with_name(f"apk-{OLD_ALPINE}.lock").read_text()
        new = slot(NEW, "")
        for what, names in {"OpenSSL": ("libcrypto3", "libssl3"), "xz-libs": ("xz-libs",)}.items():
            mixed = lock
            for name in names:
                line = re.compile(rf'^"{name}" = .*$', re.M)
                found = line.search(older)
                assert found, name
                mixed = line.sub(found[0].replace("\\", r"\\"), mixed)
            copy.lock.write_text(mixed)
            yield what, slot(OLD, what), new
        copy.lock.write_text(lock)
        old = slot(OLD, "")
        copy.add_package("curl")
        yield "curl added", old, slot(NEW, "curl")


def _case(
    what: str, old: Path, new: Path, store: Store, config: Config, progress: Progress
) -> Case:
    image = write_slot(new, store.blobs, config.publish.level)
    begin = _processor_seconds()
    plan = plan_for(config, ["chroot"], progress)
    before, after = memoryview(old.read_bytes()), memoryview(new.read_bytes())
    with programs_of(plan.engine, plan.root, config.alpine.arch, before) as pack_again:
        found = streams(before, after, pack_again)
    older = Manifest("belay", config.alpine.arch, OLD, 0, image, {})
    slots = Slots(before, after, regions(after), found)
    delta, _ = make_delta(slots, older, image, store.blobs)
    image = replace(image, deltas=(delta,))
    return Case(what, old, new, image, _processor_seconds() - begin)


def _processor_seconds() -> float:
    """Those of this process and of what it ran."""
    return sum(os.times()[:4])


def _slot(c: Context, config: Config, target: Path) -> Path:
    build(c, "slot", config)
    return Path(shutil.copyfile((BUILD / "slot.img").resolve(), target))


def sizes(case: Case, folder: Path) -> Iterator[Figure]:
    """What a node fetches, in kB: by delta, as whole chunks, and by others."""
    (delta,) = case.image.deltas
    whole = replace(case.image, deltas=())
    more = len(_manifest(case.image)) - len(_manifest(whole))
    chunks = zip(case.image.chunks, delta.pieces, strict=True)
    pieces = delta.blob.size + sum(chunk.size for chunk, piece in chunks if not piece.size)
    yield Figure(f"{case.what}: by delta, manifest too", (pieces + more) / 1e3, "kB")
    yield Figure(f"{case.what}: making the delta, processor time", case.seconds, "s")
    yield Figure(f"{case.what}: whole chunks", case.image.blob.size / 1e3, "kB")
    for name, size in PEERS.items():
        scratch = folder / "peer"
        scratch.mkdir()
        try:
            yield Figure(f"{case.what}: {name}", size(case.old, case.new, scratch) / 1e3, "kB")
        except UserError as error:
            yield Figure(f"{case.what}: {name}: {error.found}", float("nan"), "kB")
        finally:
            shutil.rmtree(scratch)


def _manifest(image: SlotImage) -> bytes:
    return render(Manifest("belay", "x86_64", NEW, 0, image, {}))


def _zstd(old: Path, new: Path, folder: Path) -> int:
    return _output(folder, "zstd", "-q", "-9", "--long=31", f"--patch-from={old}", new, "-o")


def _xdelta3(old: Path, new: Path, folder: Path) -> int:
    return _output(folder, "xdelta3", "-e", "-3", "-S", "lzma", "-B", 1 << 29, "-s", old, new)


def _output(folder: Path, program: str, *words: object) -> int:
    """The size of the file that a program writes, whose name is its last word."""
    command = [require_program(program), *map(str, words), str(folder / "out")]
    subprocess.run(command, check=True, capture_output=True)
    return (folder / "out").stat().st_size


def _casync(old: Path, new: Path, folder: Path) -> int:
    casync, store = require_program("casync"), folder / "store.castr"

    def stored(path: Path) -> int:
        words: list[str | Path] = [casync, "make", f"--store={store}"]
        words += [folder / f"{path.name}.caibx", path]
        subprocess.run(words, check=True, capture_output=True)
        return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())

    before = stored(old)
    return stored(new) - before + (folder / f"{new.name}.caibx").stat().st_size


def _zchunk(old: Path, new: Path, folder: Path) -> int:
    zck = require_program("zck")
    for name, path in (("old", old), ("new", new)):
        subprocess.run([zck, "-o", folder / name, path], check=True, capture_output=True)
    done = subprocess.run(
        ["zck_delta_size", folder / "old", folder / "new"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    match = re.search(r"Would download (\d+) of", done.stdout)
    assert match, done.stdout
    return int(match[1])


PEERS: dict[str, Callable[[Path, Path, Path], int]] = {
    "casync": _casync,
    "zchunk": _zchunk,
    "zstd --patch-from": _zstd,
    "xdelta3": _xdelta3,
}


def busybox_of(slot: Path, folder: Path) -> dict[str, str]:
    """An environment in which `busybox` is that of a slot, as it is on the node."""
    image = memoryview(slot.read_bytes())
    wanted = re.compile(r"root/(usr/)?(lib/ld-musl-[^/]+\.so\.1|bin/busybox)")
    paths = {}
    for region in regions(image):
        if wanted.fullmatch(region.name):
            path = folder / Path(region.name).name
            path.write_bytes(region.content(image))
            path.chmod(0o755)
            paths["busybox" if path.name == "busybox" else "loader"] = path
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    wrapper = programs / "busybox"
    wrapper.write_text(f'#!/bin/sh\nexec "{paths["loader"]}" "{paths["busybox"]}" "$@"\n')
    wrapper.chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}"}
