"""A kernel for real machines, with its firmware and microcode: as many files as Alpine's has."""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.alpine.apk_writer import Entry, draft
from builder.alpine.initramfs import cpio_entries, initramfs_parts
from builder.alpine.lock import read_lock
from builder.benchmarks.lts import (
    DEPMOD,
    Shape,
    module,
    pc_modules,
    real_kernel,
    stored_zstd,
    virt_package,
)
from builder.core.config import MIB
from builder.disk.layout import SLOT_AUTO_MIB
from builder.disk.table import read_table
from tests.conftest import InContainer
from tests.offer import Offer
from tests.project import Project

pytestmark = pytest.mark.container

VERSION = "6.18.56-0-virt"  # of the sample's kernel


def modloop_of(in_container: InContainer, project: Project, folder: str) -> dict[str, str]:
    """The files and links in a folder of the modloop part, and where links lead."""
    output = in_container(
        f"unsquashfs -q -n -d /tmp/all in/modloop >&2; cd /tmp/all/{folder}; "
        "find . ! -type d | while IFS= read -r path; do"
        ' printf "%s\\t%s\\n" "${path#./}" "$(readlink "$path")"; done',
        modloop=project.build / "modloop.squashfs",
    )
    return dict(line.split("\t") for line in output.splitlines())


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
    output = project.inv("image")

    asked = kernel.asked_by(kernel.needs)
    assert modloop_of(in_container, project, "firmware") == kernel.firmware_for(asked)
    assert len(modules_of(in_container, project)) == 4216
    missing = {f"nobody/has-{number}.bin" for number in range(150)}
    log = (project.build / "log/modloop.log").read_text()
    assert missing <= set(log.splitlines())
    told = re.search(r"modloop: 4216 modules; (\d+) files of firmware, and (\d+) that", output)
    assert told and int(told[1]) == len(kernel.firmware_for(asked)) > 2000
    assert len(missing) <= int(told[2]) < 160, "some that real modules ask for are missing too"
    memory = re.search(r"; (\d+) MiB of memory", output)
    assert memory and int(memory[1]) < 1024

    *microcode, last = initramfs_parts((project.build / "initramfs").read_bytes())
    found = [entry.name for part in microcode for entry in cpio_entries(bytearray(part))]
    assert "kernel/x86/microcode/AuthenticAMD.bin" in found
    assert "kernel/x86/microcode/GenuineIntel.bin" in found
    assert "init" in {entry.name for entry in cpio_entries(bytearray(last))}

    lock = read_lock(project.root / "apk.lock")
    assert lock and lock.slots == {"lts": SLOT_AUTO_MIB}
    with (project.build / "disk.img").open("rb") as disk:
        table = read_table(disk)
    assert {table[name].size for name in ("slot-a", "slot-b")} == {SLOT_AUTO_MIB * MIB}

    # A smaller choice, and firmware that no module asks for.
    project.env |= {"BELAY_MODLOOP_MODULES": "pc", "BELAY_MODLOOP_FIRMWARE": "intel/ibt-*"}
    output = project.inv("modloop")
    listed = {name.replace("-", "_") for name in pc_modules()}
    kept = modules_of(in_container, project)
    own = kernel.with_needs(listed)
    assert kept & set(kernel.needs) == own != set()
    asked = kernel.asked_by(own) | {"intel/ibt-*"}
    assert modloop_of(in_container, project, "firmware") == kernel.firmware_for(asked)
    assert re.search(rf"modloop: {len(kept)} of 4216 modules, which saves about \d+ MiB", output)
    done = project.run("modloop", BELAY_MODLOOP_FIRMWARE="intel/ibt-* qca/none*")
    assert done.returncode == 1
    assert "firmware in [modloop] of image.toml: no package has qca/none*" in done.stderr


def test_microcode_is_named_where_it_is_missing_or_none(
    offer: Offer, offer_project: Project
) -> None:
    kernel = real_kernel(virt_package(), Shape(modules=900, firmware=200, links=0))
    offer_project.env["BELAY_ALPINE_KERNEL"] = "lts"
    offer.add(*(draft for draft in kernel.drafts if "ucode" not in draft.fields["P"]))
    done = offer_project.run("chroot")
    assert done.returncode == 1
    assert "write !amd-ucode and !intel-ucode into rootfs/world to do without" in done.stderr
    (amd,) = (draft for draft in kernel.drafts if draft.fields["P"] == "amd-ucode")
    broken = [
        Entry(
            "boot/intel-ucode.img",
            0o644,
            amd.entries[-1].data[:100] if amd.entries[-1].data else b"",
        )
    ]
    offer.add(
        *(draft for draft in kernel.drafts if draft.fields["P"] != "intel-ucode"),
        draft("intel-ucode", "1-r0", "a test", broken),
    )
    done = offer_project.run("chroot")
    assert done.returncode == 1
    assert "boot/intel-ucode.img of a package is no cpio that is not compressed" in done.stderr


PLACES = {  # of firmware: where links lead, or nothing
    "q/deep.bin.zst": "", "xx.bin": "", "p/[a.bin": "", "p/a]b": "", "p/a[1].bin": "", "p/é1": "",
    "dangling.bin": "gone.bin", "only.bin": "packed.bin", "packed.bin.zst": "",
    "round.bin": "and.bin", "and.bin": "round.bin", "out.bin": "../../etc/passwd",
    "iwl-9.ucode": "gone", "iwl-8.ucode": "", "back.bin": "../firmware/xx.bin",
    "usr.bin": "/usr/lib/firmware/xx.bin", "unasked.bin": "",
}  # fmt: skip
ASKED = {  # by modules, and what that takes
    "*/deep.bin": ["q/deep.bin.zst"],
    "?x.bin": ["xx.bin"],
    "p/[a.bin": ["p/[a.bin"],
    "p/a[]z]b": ["p/a]b"],
    "p/a[[]1].bin": ["p/a[1].bin"],
    "p/é*": ["p/é1"],
    "q/deep.bin.zst": ["q/deep.bin.zst"],
    "iwl-9.ucode": ["iwl-8.ucode"],
    "back.bin": ["back.bin", "xx.bin"],
    "usr.bin": ["usr.bin", "xx.bin"],
    "own/*.bin": ["own/mine.bin"],
    **{ask: [] for ask in ("dangling.bin", "only.bin", "round.bin", "out.bin", "[:", "q/[^")},
}


def test_odd_names_of_firmware_mean_what_the_shell_makes_of_them(
    offer: Offer, offer_project: Project, in_container: InContainer
) -> None:
    entries = [
        Entry(f"lib/firmware/{path}", 0o777, target=target)
        if target
        else Entry(f"lib/firmware/{path}", 0o644, b"x")
        for path, target in PLACES.items()
    ]
    # Outside of kernel/, as drivers of others lie.
    path = f"lib/modules/{VERSION}/extra/odd.ko"
    entries.append(Entry(path, 0o644, module("odd", list(ASKED), [])))
    offer.add(draft("drivers", "1.0-r0", "a test", entries, {"post-install": DEPMOD}, D="kmod"))
    project = offer_project
    with (project.root / "rootfs/world").open("a") as world:
        world.write("drivers\n")
    own = project.root / "rootfs/overlay/lib/firmware"
    (own / "own").mkdir(parents=True)
    (own / "own/mine.bin").write_text("mine")
    (own / "back.bin").write_text("mine too")
    project.inv("modloop", BELAY_MODLOOP_MODULES="odd", BELAY_MODLOOP_FIRMWARE="own/mine.bin")
    found = modloop_of(in_container, project, "firmware")
    assert found.keys() == {path for paths in ASKED.values() for path in paths}
    assert not found["back.bin"], "the overlay's file takes the place of the link"
    log = (project.build / "log/modloop.log").read_text()
    assert {ask for ask, paths in ASKED.items() if not paths} <= set(log.splitlines())
    assert "modules of extra" in (project.build / "modloop.sizes").read_text()
    (own / "xx.bin").mkdir()
    (own / "xx.bin/y").write_text("y")
    done = project.run("modloop", BELAY_MODLOOP_MODULES="odd")
    assert done.returncode == 1
    assert "rootfs/overlay/lib/firmware/xx.bin: packages have a file or a link there" in done.stderr


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
    project.inv("modloop", BELAY_MODLOOP_MODULES="pc packed-3")
    assert {"packed_3", "packed_0", "btrfs"} <= modules_of(in_container, project)
    features = project.root / "initramfs/features/belay.modules"
    features.write_text(f"{features.read_text()}packed-1\nno-such-module\nanother?\n")
    output = project.inv("initramfs")
    assert f"initramfs: the kernel {VERSION} has none of these" in output
    assert re.search(r"name: no-such-module$", output, re.MULTILINE)
    initramfs = initramfs_parts((project.build / "initramfs").read_bytes())
    names = {entry.name for part in initramfs for entry in cpio_entries(bytearray(part))}
    assert {Path(name).name for name in names} >= {"packed_1.ko", "packed_0.ko"}


def xz(data: bytes) -> bytes:
    return lzma.compress(data, check=lzma.CHECK_CRC32)
