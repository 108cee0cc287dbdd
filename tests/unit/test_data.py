"""What the service that mounts /data makes of what it finds there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from builder.core.paths import PROJECT

SERVICE = PROJECT / "rootfs/overlay/etc/init.d/belay-data"
LIBRARY = PROJECT / "rootfs/overlay/usr/lib/belay/disk.sh"
BUILT = 1_800_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc/belay").mkdir(parents=True)
    (tmp_path / "etc/belay/release.json").write_text(json.dumps({"built": BUILT}, indent=1))
    (tmp_path / "data/lost+found").mkdir(parents=True)
    # `date` as a clock that stands at 1970, and says to what it is set.
    (tmp_path / "bin").mkdir()
    date = '#!/bin/sh\n[ "$1" = -s ] && echo "$2" >>"$ROOT/set"\necho 7\n'
    (tmp_path / "bin/date").write_text(date)
    (tmp_path / "bin/date").chmod(0o755)
    return tmp_path


def sh(root: Path, command: str) -> str:
    text = SERVICE.read_text().replace("/usr/lib/belay/disk.sh", str(LIBRARY))
    done = subprocess.run(
        ["sh", "-euc", f"{text}\n{command}"],
        env={"ROOT": str(root), "PATH": f"{root}/bin:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize(
    ("trust", "floor"),
    [
        (None, BUILT),
        ("", BUILT),
        ({"newest": {"stable": BUILT + 5}}, BUILT + 5),
        ({"newest": {"beta": {"0123456789012345": BUILT - 9}}}, BUILT),
        ({"newest": {"a": {"99999999999": BUILT + 1, "B": BUILT + 7}, "b": {"C": 3}}}, BUILT + 7),
        ({"newest": {"stable": 10**18}}, BUILT),
        ({"newest": {}}, BUILT),
    ],
)
def test_the_clock_is_not_behind_what_was_signed(
    root: Path, trust: dict[str, object] | str | None, floor: int
) -> None:
    if trust is not None:
        (root / "data/belay").mkdir()
        more = {"revoked": ["X"], "etags": {"a": '"9999999999"'}}
        text = json.dumps({**trust, **more}) if isinstance(trust, dict) else "rubbish"
        (root / "data/belay/trust.json").write_text(text)
    sh(root, "set_clock_floor")
    assert (root / "set").read_text() == f"@{floor}\n"
    assert (root / "run/belay/clock").exists(), "belay status tells of it"


def test_what_was_repaired_is_told_and_its_log_kept(root: Path) -> None:
    log = root / "log"
    log.write_text("Inode 12 cleared\n")
    assert sh(root, f"tell_repairs {log} 0") == ""
    assert not (root / "data/belay").exists()
    (root / "data/lost+found/#12").write_text("part of something")
    said = sh(root, f"tell_repairs {log} 4")
    assert "repaired: /data/belay/fsck.log; 1 are in /data/lost+found" in said
    assert (root / "run/belay/warnings").read_text() == said
    assert "Inode 12 cleared" in (root / "data/belay/fsck.log").read_text()
    assert (root / "data/belay").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("cmdline", "guid", "given"),
    [
        ("belay.stamp=20261128", "AB-1", True),
        ("belay.stamp=20261128", "cd-2", False),
        # Installed by a version before, whose boot loader knows the GUIDs of the image alone.
        ("belay.partuuid=x", "AB-1", False),
    ],
)
def test_a_disk_gets_guids_only_where_its_loader_looks_them_up(
    root: Path, cmdline: str, guid: str, given: bool
) -> None:
    (root / "proc").mkdir()
    (root / "proc/cmdline").write_text(f"quiet {cmdline}\n")
    (root / "etc/belay/disk-guid").write_text("ab-1\n")
    (root / "bin/sfdisk").write_text(f"#!/bin/sh\necho {guid}\n")
    (root / "bin/sfdisk").chmod(0o755)
    said = sh(root, "if has_guids_of_image sda; then echo given; else echo kept; fi")
    assert said == ("given\n" if given else "kept\n")
