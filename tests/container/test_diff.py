"""`inv diff` names what differs between two artefacts, and nothing else."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from builder.artefacts.listing import File, Lister, differences
from builder.core.config import load_config
from builder.core.errors import UserError
from builder.core.progress import Progress
from builder.steps.plan import plan_for
from tests.conftest import InContainer

pytestmark = pytest.mark.container


@pytest.fixture
def lister(artefacts: Path) -> Lister:
    plan = plan_for(load_config(), ["chroot"], Progress())
    return Lister(plan.engine, plan.root)


def test_each_kind_of_difference_in_a_squashfs_is_named(
    lister: Lister, in_container: InContainer, tmp_path: Path
) -> None:
    script = """
        mkdir -p /tmp/t/folder; cd /tmp/t
        for f in content size mode setuid owner gone same; do echo 1 >$f; done
        ln -s one link; ln -s same steady
        pack() { mksquashfs /tmp/t /srv/out/$1 -quiet -no-progress -all-time 0 -mkfs-time 0 \
            -p "owner m 644 $2 $3" >/dev/null; }
        pack one 0 0
        echo 2 >content; echo 22 >size; chmod 755 mode; chmod 4755 setuid; rm gone; echo n >new
        ln -sf two link
        pack two 7 9
    """
    in_container(script)
    out = tmp_path / "container output"
    first, second = (lister.files(out / name) for name in ("one", "two"))
    assert first["same"] == File("file", 0o644, "0/0", 2, first["same"].content)
    assert differences(first, second) == {
        "content": "content",
        "gone": "only in the first",
        "link": "-> one now two",
        "mode": "mode 644 -> 755",
        "new": "only in the second",
        "owner": "owner 0/0 -> 7/9",
        "setuid": "mode 644 -> 4755",
        "size": "2 -> 3 bytes",
    }


def test_every_artefact_can_be_listed(lister: Lister, artefacts: Path) -> None:
    wanted = {
        "chroot.tar": "etc/shadow",
        "initramfs": "init",
        "root.squashfs": "etc/shadow",
        "slot.img": "root/etc/shadow",
        "disk.img": "slot-b/root/etc/shadow",
    }
    for name, file in wanted.items():
        assert file in lister.files((artefacts / name).resolve()), name
    found = lister.files((artefacts / "root.squashfs").resolve())
    assert (found["etc/shadow"].mode, found["etc/shadow"].owner) == (0o640, "0/42")
    assert found["tmp"].mode == 0o1777
    in_tar = lister.files((artefacts / "chroot.tar").resolve())
    assert in_tar["bin/busybox"] == found["bin/busybox"], "in both the same file"


def test_what_is_no_artefact_is_refused(lister: Lister, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UserError, match="is no disk image, slot, squashfs, initramfs or tar"):
        lister.files(tmp_path / "text")


def test_a_changed_file_in_a_tar_is_named(lister: Lister, tmp_path: Path) -> None:
    for name, data in {"one": b"1", "two": b"2"}.items():
        with tarfile.open(tmp_path / name, "w") as tar:
            info = tarfile.TarInfo("file")
            info.size = 1
            tar.addfile(info, io.BytesIO(data))
    first, second = (lister.files(tmp_path / name) for name in ("one", "two"))
    assert differences(first, second) == {"file": "content"}
