"""Each artefact, read back by a tool that did not make it."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import pytest

from builder.core.config import load_config
from builder.core.errors import UserError
from builder.core.files import copy_sparse
from builder.core.progress import Progress
from builder.disk.boot_state import grubenv_offset, read_boot_state
from builder.disk.layout import SECTOR, Layout
from builder.nodes.places import open_place
from builder.nodes.volume import volume
from builder.steps.plan import plan_for
from tests.conftest import InContainer
from updater.grubenv import BootState
from updater.slot import parts

pytestmark = pytest.mark.container


def test_chroot_holds_the_packages_with_their_owners(artefacts: Path) -> None:
    with tarfile.open(artefacts / "chroot.tar") as tar:
        members = {member.name: member for member in tar}
    shadow = members["etc/shadow"]
    assert (shadow.uid, shadow.gid, shadow.mode) == (0, 42, 0o640)
    assert members["tmp"].mode == 0o1777
    assert "boot" in members
    with tarfile.open(artefacts / "modules.tar") as tar:
        modules = tar.getnames()
    assert any(name.endswith("/modules.dep") for name in modules)
    assert not set(modules) & set(members)
    assert not any(name.startswith("dev/") and not m.isdir() for name, m in members.items())
    assert not any(name.startswith("etc/apk/keys/belay") for name in members), "the sample's key"


def test_a_nodes_files_are_written_into_a_disk_image(
    disk_image: Path, disk_layout: Layout, tmp_path: Path, in_container: InContainer
) -> None:
    """One that Belay made takes them; of one that it didn't nothing is known."""
    image, files = tmp_path / "some.img", tmp_path / "files"
    copy_sparse(disk_image, image)
    files.mkdir()
    (files / "name").write_text("crag-9\n")
    plan = plan_for(load_config(), ["chroot"], Progress())
    target = open_place(str(image))
    target.write(files, lambda: volume(files, "BELAY", plan.root, plan.engine))
    node = disk_layout["node"]
    with image.open("rb") as disk:
        disk.seek(node.first * SECTOR)
        (tmp_path / "node").write_bytes(disk.read(node.sectors * SECTOR))
    read = "MTOOLS_SKIP_CHECK=1 mcopy -i in/node ::/name /tmp/name && cat /tmp/name"
    assert in_container(read, node=tmp_path / "node") == "crag-9\n"
    with image.open("r+b") as disk:
        disk.write(bytes(1 << 20))
    with pytest.raises(UserError, match="no disk image with a partition for a node"):
        open_place(str(image))


def test_initramfs_holds_what_init_needs(artefacts: Path, in_container: InContainer) -> None:
    listing = in_container("zcat in/initramfs | cpio -t", initramfs=artefacts / "initramfs")
    names = set(listing.split())
    for module in ("loop", "squashfs", "overlay", "virtio_blk", "nvme", "usb-storage"):
        assert any(name.endswith(f"/{module}.ko") for name in names), module
    assert {"init", "usr/bin/busybox", "usr/bin/kmod"} <= names
    assert b"TRAILER!!!" in gzip.decompress((artefacts / "initramfs").read_bytes())


def test_root_has_the_overlay_the_services_and_right_owners(
    artefacts: Path, in_container: InContainer
) -> None:
    listing = in_container("unsquashfs -lln in/root", root=artefacts / "root.squashfs")
    lines = {line.split()[5].removeprefix("squashfs-root/"): line for line in listing.splitlines()}
    assert lines["etc/shadow"].startswith("-rw-r----- 0/42 ")
    assert lines["etc/inittab"].startswith("-rw-r--r-- 0/0 ")
    assert lines["etc/init.d/belay-gate"].startswith("-rwxr-xr-x 0/0 ")
    assert "etc/runlevels/default/belay-gate" in lines
    assert "squashfs-root/lib/modules -> /.modloop/modules" in listing
    assert not any(name.startswith("boot/") for name in lines)
    cached = in_container(
        "unsquashfs -cat in/root var/cache/rc/deptree", root=artefacts / "root.squashfs"
    )
    assert "service='belay-gate'" in cached, "openrc would leave the service out"


def test_modloop_holds_plain_modules_that_find_each_other(
    artefacts: Path, in_container: InContainer
) -> None:
    script = """
        unsquashfs -quiet -no-progress -d /tmp/m in/modloop >/dev/null
        mkdir -p /tmp/root/lib && mv /tmp/m/modules /tmp/root/lib/modules
        ls /tmp/root/lib/modules
        find /tmp/root -name '*.ko.*' | wc -l
        modprobe -d /tmp/root -S $(ls /tmp/root/lib/modules) --show-depends vfat
    """
    output = in_container(script, modloop=artefacts / "modloop.squashfs")
    kernel, packed, *depends = output.splitlines()
    assert (packed.strip(), kernel.endswith("-virt")) == ("0", True)
    assert [line.rpartition("/")[2].strip() for line in depends] == ["fat.ko", "vfat.ko"]


def test_the_parts_of_a_slot_are_what_the_steps_made(
    artefacts: Path, in_container: InContainer
) -> None:
    data = (artefacts / "slot.img").read_bytes()
    boot, root, modloop = parts(lambda offset, size: data[offset : offset + size])
    assert modloop.offset + modloop.size == len(data)
    for part in (root, modloop):
        content = data[part.offset : part.offset + part.size]
        assert content == (artefacts / f"{part.name}.squashfs").read_bytes()
    listing = in_container("unsquashfs -l in/slot", slot=artefacts / "slot.img")
    names = {line.partition("/")[2] for line in listing.splitlines()}
    assert names - {""} == {"vmlinuz", "initramfs"}
    assert boot.offset == 0


def test_the_partition_table_is_the_layout(
    artefacts: Path, disk_layout: Layout, in_container: InContainer
) -> None:
    table = json.loads(in_container("sfdisk --json in/disk", disk=artefacts / "disk.img"))
    assert table["partitiontable"]["id"].lower() == disk_layout.guid
    found = [
        (entry["name"], entry["start"], entry["size"], entry["uuid"].lower(), entry["type"])
        for entry in table["partitiontable"]["partitions"]
    ]
    assert found == [
        (p.name, p.first, p.sectors, p.guid, p.type_guid) for p in disk_layout.partitions
    ]
    in_container("sfdisk --verify in/disk", disk=artefacts / "disk.img")


def test_both_slots_of_the_disk_are_the_slot(artefacts: Path, disk_layout: Layout) -> None:
    slot = (artefacts / "slot.img").read_bytes()
    with (artefacts / "disk.img").open("rb") as disk:
        for name in ("slot-a", "slot-b"):
            disk.seek(disk_layout[name].first * SECTOR)
            assert disk.read(len(slot)) == slot


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("esp", "fsck.fat -n out/part"),
        ("node", "fsck.fat -n out/part"),
        ("data", "e2fsck -fn out/part"),
    ],
)
def test_the_file_systems_of_the_disk_are_sound(
    artefacts: Path, disk_layout: Layout, in_container: InContainer, name: str, check: str
) -> None:
    part = disk_layout[name]
    cut = f"dd if=in/disk of=out/part bs=512 skip={part.first} count={part.sectors} 2>/dev/null"
    in_container(f"{cut}; {check}", disk=artefacts / "disk.img")


def test_the_boot_state_is_the_default_and_lies_in_one_place(artefacts: Path) -> None:
    disk = artefacts / "disk.img"
    assert read_boot_state(disk) == BootState()
    assert grubenv_offset(disk) % SECTOR == 0
