"""A kernel for real machines, with its firmware and microcode: as many files as Alpine's has."""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.alpine.apk_writer import Entry, draft
from tasks.alpine.initramfs import cpio_entries, initramfs_parts
from tasks.alpine.lock import read_lock
from tasks.benchmarks.lts import (
    DEPMOD,
    Shape,
    module,
    pc_modules,
    real_kernel,
    stored_zstd,
    virt_package,
)
from tasks.core.config import MIB
from tasks.disk.layout import SLOT_LEAST_MIB
from tasks.disk.table import read_table
from tests.conftest import InContainer
from tests.offer import Offer
from tests.project import Project

pytestmark = pytest.mark.container

VERSION = "6.18.56-0-virt"  # of the sample's kernel


def modloop_of(in_container: InContainer, project: Project, folder: str) -> dict[str, str]:
    """The files and links in a folder of the modloop part, and where links lead."""
    said = in_container(
        f"unsquashfs -q -n -d /tmp/all in/modloop >&2; cd /tmp/all/{folder}; "
        "find . ! -type d | while IFS= read -r path; do"
        ' printf "%s\\t%s\\n" "${path#./}" "$(readlink "$path")"; done',
        modloop=project.build / "modloop.squashfs",
    )
    return dict(line.split("\t") for line in said.splitlines())


def modules_of(in_container: InContainer, project: Project) -> set[str]:
    """The names of all modules, as the kernel spells them."""
    found = modloop_of(in_container, project, f"modules/{VERSION}/kernel")
    assert all(path.endswith(".ko") for path in found)
    return {Path(path).stem.replace("-", "_") for path in found}


def test_a_kernel_for_real_machines_fits_by_itself(
    offer: Offer, offer_project: Project, in_container: InContainer
) -> None:
    project = offer_project
    kernel = real_kernel(virt_package(), Shape())
    offer.add(*kernel.drafts)
    project.env["BELAY_ALPINE_KERNEL"] = "lts"
    said = project.inv("image")

    asked = kernel.asked_by(kernel.needs)
    assert modloop_of(in_container, project, "firmware") == kernel.firmware_for(asked)
    assert len(modules_of(in_container, project)) == 4216
    missing = {f"nobody/has-{number}.bin" for number in range(150)}
    log = (project.build / "log/modloop.log").read_text()
    assert missing <= set(log.splitlines())
    told = re.search(r"modloop: 4216 modules; (\d+) files of firmware, and (\d+) that", said)
    assert told and int(told[1]) == len(kernel.firmware_for(asked)) > 2000
    assert len(missing) <= int(told[2]) < 160, "some that real modules ask for are missing too"
    memory = re.search(r"; (\d+) MiB of memory", said)
    assert memory and int(memory[1]) < 1024

    *microcode, last = initramfs_parts((project.build / "initramfs").read_bytes())
    found = [entry.name for part in microcode for entry in cpio_entries(bytearray(part))]
    assert "kernel/x86/microcode/AuthenticAMD.bin" in found
    assert "kernel/x86/microcode/GenuineIntel.bin" in found
    assert "init" in {entry.name for entry in cpio_entries(bytearray(last))}

    lock = read_lock(project.root / "apk.lock")
    assert lock and lock.slots == {"lts": SLOT_LEAST_MIB}
    with (project.build / "disk.img").open("rb") as disk:
        table = read_table(disk)
    assert {table[name].size for name in ("slot-a", "slot-b")} == {SLOT_LEAST_MIB * MIB}

    # A smaller choice, and firmware that no module asks for.
    project.env |= {"BELAY_MODLOOP_MODULES": "pc", "BELAY_MODLOOP_FIRMWARE": "intel/ibt-*"}
    said = project.inv("modloop")
    listed = {name.replace("-", "_") for name in pc_modules()}
    there = modules_of(in_container, project)
    own = kernel.with_needs(listed)
    assert there & set(kernel.needs) == own != set()
    asked = kernel.asked_by(own) | {"intel/ibt-*"}
    assert modloop_of(in_container, project, "firmware") == kernel.firmware_for(asked)
    assert re.search(rf"modloop: {len(there)} of 4216 modules, which saves about \d+ MiB", said)
    done = project.run("modloop", BELAY_MODLOOP_FIRMWARE="intel/ibt-* qca/none*")
    assert done.returncode == 1
    assert "firmware in [modloop] of image.toml: no package has qca/none*" in done.stderr


def test_modules_and_firmware_may_be_packed_in_any_way(
    offer: Offer, offer_project: Project, in_container: InContainer
) -> None:
    packings: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        ".gz": gzip.compress,
        ".xz": xz,
        ".zst": stored_zstd,
    }
    folder = f"lib/modules/{VERSION}/kernel/drivers/test"
    entries = []
    for number, (ending, pack) in enumerate(packings.items()):
        needs = [f"packed_{number - 1}"] if number else []
        data = module(f"packed_{number}", [f"packed/{number}.bin"], needs)
        entries.append(Entry(f"{folder}/packed_{number}.ko{ending}", 0o644, pack(data)))
        if ending != ".gz":  # the kernel knows no such firmware
            entries.append(Entry(f"lib/firmware/packed/{number}.bin{ending}", 0o644, pack(b"x")))
    offer.add(draft("drivers", "1.0-r0", "a test", entries, {"post-install": DEPMOD}, D="kmod"))
    project = offer_project
    with (project.root / "rootfs/world").open("a") as world:
        world.write("drivers\n")
    project.inv("modloop", BELAY_MODLOOP_MODULES="packed-3")
    assert modules_of(in_container, project) == {f"packed_{number}" for number in range(4)}
    assert modloop_of(in_container, project, "firmware").keys() == {
        "packed/0.bin", "packed/2.bin.xz", "packed/3.bin.zst"
    }  # fmt: skip
    log = (project.build / "log/modloop.log").read_text()
    assert "packed/1.bin" in log.splitlines()
    done = project.run("modloop", BELAY_MODLOOP_MODULES="packed-3 packed-4")
    assert done.returncode == 1
    assert f"modules in [modloop] of image.toml: the kernel {VERSION} has no module packed-4" in (
        done.stderr
    )
    features = project.root / "initramfs/features/belay.modules"
    features.write_text(f"{features.read_text()}packed-1\nno-such-module\nanother?\n")
    said = project.inv("initramfs")
    assert f"initramfs: the kernel {VERSION} has none of these" in said
    assert re.search(r"name: no-such-module$", said, re.MULTILINE)
    initramfs = initramfs_parts((project.build / "initramfs").read_bytes())
    names = {entry.name for part in initramfs for entry in cpio_entries(bytearray(part))}
    assert {Path(name).name for name in names} >= {"packed_1.ko.gz", "packed_0.ko"}


def xz(data: bytes) -> bytes:
    return lzma.compress(data, check=lzma.CHECK_CRC32)
