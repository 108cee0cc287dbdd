"""Tries a release in a virtual machine as a node would: an update, a trial boot, the checks."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from builder.core.arch import ARCHES
from builder.core.config import Config
from builder.core.errors import UserError
from builder.core.paths import BUILD
from builder.core.progress import Progress
from builder.nodes.volume import write_fat
from builder.releases.make import release_before, trusted_keys
from builder.releases.store import Store, unpack_disk
from builder.steps.plan import plan_for
from builder.vm.machine import Machine, MachineError
from builder.vm.remote import Remote, Stick
from updater.contract import (
    RUN_CONFIRMED,
    arch_folder,
)
from updater.formats import Manifest, version_key

NODE = "trial"
RELEASES = "/run/belay-trial"  # where the machine mounts the disk with the release
BOOT_TIMEOUT_S = 900
UPDATE_TIMEOUT_S = 1800
TRIAL_TIMEOUT_S = 3600  # three tries, each with a watchdog's time, and the way back
MOUNT = (
    f"modprobe -a -q virtio_blk vfat nls_cp437 nls_iso8859-1; mkdir -p {RELEASES} && "
    f"mount -t vfat -o ro /dev/vdb {RELEASES}"
)
Tell = Callable[[str], None]
WriteFat = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Trial:
    """What became of a release: `rejected` says why the machine went back, if it did."""

    version: str
    before: str
    rejected: str

    def __str__(self) -> str:
        how = f"rejected: {self.rejected}" if self.rejected else "passed"
        on = "itself" if self.before == self.version else self.before
        return f"release {self.version}, tried on {on}: {how}"


def tried(config: Config, store: Store, version: str, before: str = "") -> Trial:
    """Try a release on the one `before`, or on the newest older one."""
    manifest = store.manifest(version, trusted_keys())
    if before:
        older = store.manifest(before, trusted_keys())
    else:
        older = release_before(store, version) or manifest
    if version_key(older.version) > version_key(version):
        raise UserError(f"--before {before}: nodes go back to {version} only by an order")
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="trial-") as scratch, Progress() as progress:
        plan = plan_for(config, ["chroot"], progress)

        def fat(folder: Path, image: Path) -> None:
            write_fat(folder, "BELAYTRIAL", image, plan.root, plan.engine)

        tell = partial(progress.stage, f"testing {version}")
        trial = try_release(store, manifest, older, fat, Path(scratch), tell)
        progress.stopped(f"testing {version}")
    return trial


def try_release(
    store: Store, manifest: Manifest, before: Manifest, fat: WriteFat, folder: Path, tell: Tell
) -> Trial:
    """Boot the release `before`, let it bring the other one, and see which of both stays.

    `before` may be that release itself, where it is the first. `fat` writes a file system with what
    is in a folder to a file; `folder` is for what all that takes. `tell` is told what goes on.
    Raises UserError where the machine doesn't come so far that it could be judged.
    """
    disk, releases = folder / "disk.img", folder / "releases.img"
    tell(f"unpacking {before.version}")
    unpack_disk(store, before, disk)
    _gather(store, manifest, folder / "releases" / arch_folder(manifest.arch))
    fat(folder / "releases", releases)
    stick = Stick(folder / "stick", NODE)
    extra = ("-drive", f"if=virtio,format=raw,readonly=on,file={str(releases).replace(',', ',,')}")
    arch = ARCHES[manifest.arch]
    machine = Machine(
        disk, folder / "machine", bios=arch.has_bios, arch=arch, usb=stick.files, extra=extra
    )
    try:
        with machine:
            return _tried(Remote(machine, stick), manifest.version, before.version, tell)
    except MachineError as error:
        raise UserError(f"release {manifest.version} could not be tried: {error}") from None


def _gather(store: Store, manifest: Manifest, folder: Path) -> None:
    """Put to `folder` what a node fetches of a release, laid out as a server has it."""
    blob = store.blobs / manifest.slot.blob.sha256
    release = folder / "releases" / manifest.version
    shutil.copytree(store.release(manifest.version), release)
    (folder / "blobs").mkdir()
    try:
        os.link(blob, folder / "blobs" / blob.name)
    except OSError:  # another file system
        shutil.copyfile(blob, folder / "blobs" / blob.name)


def _tried(remote: Remote, version: str, before: str, tell: Tell) -> Trial:
    tell(f"booting {before}")
    remote.wait_until_confirmed(BOOT_TIMEOUT_S)
    first = _status(remote)
    boot = _boot_id(remote)
    tell(f"{before} brings {version}")
    which = "--reinstall" if version == before else f"--to {version}"
    remote.succeed(f"{MOUNT} && belay update {which} --from {RELEASES}", UPDATE_TIMEOUT_S)
    tell(f"trying {version}")
    remote.run("reboot")

    def is_over() -> bool:
        now = _boot_id(remote)
        return bool(now) and now != boot and not remote.run(f"test -e /{RUN_CONFIRMED}")[0]

    remote.wait_until(is_over, f"{version} stays, or goes back", TRIAL_TIMEOUT_S)
    after = _status(remote)
    if after["slot"] != first["slot"]:
        return Trial(version, before, "")
    # Releases of before that word called it left.
    reason = after.get("rejected") or after.get("left") or "the node does not say why"
    return Trial(version, before, str(reason))


def _status(remote: Remote) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(remote.succeed("belay status --json"))
    return status


def _boot_id(remote: Remote) -> str:
    code, output = remote.run("cat /proc/sys/kernel/random/boot_id")
    return "" if code else output.strip()
