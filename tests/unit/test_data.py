"""What the service that mounts /data makes of what it finds there."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from builder.core.paths import PROJECT
from tests.esp import esp
from tests.publisher import FileNode
from tests.services import add_library
from updater.memory import Trust

SERVICE = PROJECT / "rootfs/overlay/etc/init.d/belay-data"
BUILT = 1_800_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc/belay").mkdir(parents=True)
    (tmp_path / "etc/belay/built").write_text(f"{BUILT}\n")
    (tmp_path / "data/lost+found").mkdir(parents=True)
    add_library(tmp_path)
    # `date` as a clock that stands at 1970, and says to what it is set.
    (tmp_path / "bin").mkdir()
    date = '#!/bin/sh\n[ "$1" = -s ] && echo "$2" >>"$ROOT/set"\necho 7\n'
    (tmp_path / "bin/date").write_text(date)
    (tmp_path / "bin/date").chmod(0o755)
    return tmp_path


def sh(root: Path, command: str) -> str:
    text = SERVICE.read_text()
    done = subprocess.run(
        ["sh", "-euc", f"{text}\n{command}"],
        env={"ROOT": str(root), "PATH": f"{root}/bin:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


def signed(time: int, of: int | None = None) -> str:
    digest = hashlib.sha256(str(time if of is None else of).encode()).hexdigest()
    return f"{time} {digest}\n"


@pytest.mark.parametrize(
    ("noted", "floor"),
    [
        (None, BUILT),
        ("", BUILT),
        ("rubbish\n", BUILT),
        (str(BUILT + 5), BUILT),
        (signed(BUILT + 5), BUILT + 5),
        (signed(BUILT - 9), BUILT),
        (signed(0), BUILT),
        (signed(BUILT + 9 * 10**9, of=BUILT + 5), BUILT),
    ],
)
def test_the_clock_is_not_behind_what_was_signed(root: Path, noted: str | None, floor: int) -> None:
    """Nor does damage set it."""
    if noted is not None:
        (root / "data/belay").mkdir()
        (root / "data/belay/signed").write_text(noted)
    sh(root, "set_clock_floor")
    assert (root / "set").read_text() == f"@{floor}\n"
    assert (root / "run/belay/clock").exists(), "belay status tells of it"


def test_the_updater_notes_what_was_signed_last_as_the_shell_reads_it(
    root: Path, tmp_path: Path
) -> None:
    node = FileNode(tmp_path / "node", esp(), [])
    trust = Trust({"stable": {"A": BUILT + 3, "B": BUILT + 8}, "beta": {"A": BUILT + 6}})
    node.memory.keep_trust(trust)
    (root / "data/belay").symlink_to(node.memory.folder)
    sh(root, "set_clock_floor")
    assert (root / "set").read_text() == f"@{BUILT + 8}\n"
    # A release before this one left none.
    (node.memory.folder / "signed").unlink()
    node.memory.keep_trust(trust)
    sh(root, "set_clock_floor")
    assert (root / "set").read_text() == f"@{BUILT + 8}\n" * 2


def test_what_was_repaired_is_told_and_its_log_kept(root: Path) -> None:
    log = root / "log"
    log.write_text("Inode 12 cleared\n")
    assert sh(root, f"tell_repairs {log} 0") == ""
    assert not (root / "data/belay").exists()
    (root / "data/lost+found/#12").write_text("part of something")
    output = sh(root, f"tell_repairs {log} 4")
    assert "repaired: /data/belay/fsck.log; 1 are in /data/lost+found" in output
    assert (root / "run/belay/warnings").read_text() == output
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
    output = sh(root, "if has_guids_of_image sda; then echo given; else echo kept; fi")
    assert output == ("given\n" if given else "kept\n")
