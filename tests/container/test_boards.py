"""Images for boards: what their firmware wants on the ESP, and device trees in the slot."""

from __future__ import annotations

import io
import re
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builder.alpine.apk_format import package_files
from builder.alpine.apk_writer import Entry
from builder.core.arch import AARCH64
from builder.core.config import load_config
from builder.core.errors import UserError
from builder.disk.boards import board_of
from builder.disk.layout import grub_config, layout, sized
from builder.disk.table import read_table
from builder.sample.mirror import sample_mirror
from tests.boards import BOARD, FIRMWARE, board_mirror, use_board_mirror
from tests.mirror import Mirror
from tests.project import Project

pytestmark = pytest.mark.container

TREES = ("bcm2710-rpi-3-b.dtb", "bcm2711-rpi-4-b.dtb")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A clone whose mirror has stand-ins of the packages for Raspberry Pis."""
    (virt,) = sample_mirror("3.23", AARCH64.name).glob(
        f"v3.23/main/{AARCH64.name}/linux-virt-[0-9]*.apk"
    )
    kernel = []
    with tarfile.open(fileobj=io.BytesIO(package_files(virt.read_bytes()))) as tar:
        for member in tar:
            if reader := tar.extractfile(member) if member.isreg() else None:
                path = member.name.replace("vmlinuz-virt", "vmlinuz-rpi")
                kernel.append(Entry(path, 0o644, reader.read()))
    folder = tmp_path / "mirror"
    board_mirror(folder, kernel, {name: name.encode() for name in TREES}, b"U-Boot")
    server = Mirror(folder)
    project = Project(tmp_path, 1)
    use_board_mirror(project, folder, server.url)
    yield project
    server.close()


def test_an_image_for_a_board(project: Project, tmp_path: Path) -> None:
    project.inv("image")
    disk = (project.build / "disk.img").read_bytes()
    with (project.build / "disk.img").open("rb") as file:
        esp = read_table(file)["esp"]
    inside = disk[esp.offset : esp.offset + esp.size]
    for content in (*FIRMWARE, *TREES, "U-Boot"):
        assert content.encode() in inside, content
    config = (project.root / "boards/rpi/config.txt").read_bytes()
    assert config in inside and b"kernel=u-boot.bin\n" in config
    assert b"fdtdump --prop model" in inside and b"console=ttyS0,115200" in inside

    # First stages that know no GPT find the ESP in the MBR; all others find that there is a GPT.
    first, second, *others = (disk[at : at + 16] for at in range(446, 510, 16))
    assert (first[4], *struct.unpack("<II", first[8:])) == (
        0x0C, esp.offset // 512, esp.size // 512
    )  # fmt: skip
    assert (second[4], *struct.unpack("<II", second[8:])) == (0xEE, 1, esp.offset // 512 - 1)
    assert not any(map(any, others)) and disk[510:512] == b"\x55\xaa"

    slot = (project.build / "slot.img").read_bytes()
    assert all(name.encode() in slot for name in TREES), "those of its kernel"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"BELAY_ALPINE_ARCH": "x86_64"},
            'goes with arch = "aarch64" in [alpine], and that is "x86',
        ),
        ({"BELAY_ALPINE_KERNEL": "virt"}, 'goes with kernel = "rpi" in [alpine], and that is "vir'),
    ],
)
def test_a_board_that_does_not_fit_is_named(change: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        board_of(load_config(environ={**BOARD, **change}))


def test_a_package_that_lacks_a_file_is_named(project: Project) -> None:
    (project.root / "boards/rpi/esp").write_text("boot/gone.bin gone.bin\n")
    done = project.run("image")
    assert done.returncode == 1
    assert "no package has boot/gone.bin, which the ESP is to have as gone.bin" in done.stderr


def test_machines_without_a_board_have_nothing_of_it() -> None:
    config = sized(load_config(environ={}), {"virt": 512})
    assert board_of(config) is None and "fdtdump" not in grub_config(config, layout(config))
    board = replace(config, alpine=replace(config.alpine, arch="aarch64", kernel="rpi"))
    board = replace(board, boot=replace(board.boot, board="rpi"))
    text = grub_config(board, layout(board))
    assert text.count("devicetree ") == 1
    assert text.index('linux "($part)/vmlinuz"') < text.index("devicetree ") < text.index("initrd ")
