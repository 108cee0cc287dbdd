"""What becomes of a damaged /data, by the tools that a node has."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.core.paths import PROJECT
from tests.conftest import InContainer
from tests.services import add_library

pytestmark = pytest.mark.container

OVERLAY = PROJECT / "rootfs/overlay"
SCRIPT = """
export ROOT=/tmp/root
mkdir -p $ROOT/usr/lib
cp -r in/library $ROOT/usr/lib/belay
. in/service
mkdir -p $ROOT/run $ROOT/sys/class/block/data
echo {ro} >$ROOT/sys/class/block/data/ro
mke2fs -q -F -t ext4 -b 4096 -L data /tmp/data 64M
{damage}
code=0
e2fsck -p /tmp/data >/tmp/log 2>&1 || code=$?
[ $code -lt 4 ] || e2fsck -y /tmp/data >>/tmp/log 2>&1 || code=$?
if is_beyond_repair /tmp/data /tmp/log; then echo lost; else echo "kept, code $code"; fi
"""


@pytest.mark.parametrize(
    ("damage", "ro", "want"),
    [
        ("tr '\\0' x </dev/zero | dd of=/tmp/data bs=64k count=1 conv=notrunc", 0, "lost"),
        ("dd if=/dev/zero of=/tmp/data bs=1M count=64", 0, "lost"),
        ("dd if=/dev/urandom of=/tmp/data bs=1M count=64", 0, "lost"),
        ("dd if=/dev/zero of=/tmp/data bs=64k count=1 conv=notrunc", 1, "kept"),
        # Somebody else's.
        ("printf 'LUKS\\272\\276\\0\\1' | dd of=/tmp/data conv=notrunc", 0, "kept"),
        ("mkfs.vfat /tmp/data", 0, "kept"),
        # Features of another kernel: s_feature_incompat lies at byte 1024 + 96.
        (
            "mke2fs -q -F -t ext4 -O ^metadata_csum /tmp/data 64M; "
            "printf '\\100' | dd of=/tmp/data bs=1 seek=1123 conv=notrunc",
            0,
            "kept, code 8",
        ),
        # Shorter than a MiB, as a disk that can't be read would seem to be.
        ("dd if=/dev/zero of=/tmp/data bs=64k count=1", 0, "kept"),
    ],
    ids=["begin", "zeros", "random", "read-only", "luks", "vfat", "features", "short"],
)
def test_only_what_nobody_can_repair_is_given_up(
    in_container: InContainer, tmp_path: Path, damage: str, ro: int, want: str
) -> None:
    add_library(tmp_path, copy=True)
    library = tmp_path / "usr/lib/belay"
    script = SCRIPT.replace("{damage}", f"{{ {damage}; }} >/dev/null 2>&1 || :")
    output = in_container(
        script.replace("{ro}", str(ro)),
        service=OVERLAY / "etc/init.d/belay-data",
        library=library,
    )
    assert output.splitlines()[-1].startswith(want), output
