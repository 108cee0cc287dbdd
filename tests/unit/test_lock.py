"""apk.lock: read as written, and a damaged one is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.alpine.lock import Lock, LockedPackage, read_lock, render, write_lock
from builder.alpine.locking import changes
from builder.alpine.mirror import ALPINE_KEYS, package_keys
from builder.core.config import Alpine
from builder.core.errors import UserError

LOCK = Lock(
    "3.23",
    "x86_64",
    "https://mirror.example/alpine",
    {"main": "aa" * 32},
    {"system": ("rope",)},
    {
        "apk-tools-static": (LockedPackage("apk-tools-static", "3-r0", 30, "ff" * 32, "main"),),
        "system": (
            LockedPackage("hook", "1-r0", 10, "bb" * 32, "main"),
            LockedPackage("rope", "2-r0", 20, "cc" * 32, "community"),
        ),
    },
    slots={"virt": 512, "lts": 1344},
)


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_lock(tmp_path / "apk.lock", LOCK)
    assert read_lock(tmp_path / "apk.lock") == LOCK


def test_a_repository_may_have_a_dot_in_its_name(tmp_path: Path) -> None:
    lock = replace(LOCK, indexes={"main": "aa" * 32, "my.own": "bb" * 32, "3rd": "cc" * 32})
    write_lock(tmp_path / "apk.lock", lock)
    assert read_lock(tmp_path / "apk.lock") == lock
    assert "main = " in render(lock), "as it always was"


def test_the_projects_keys_are_trusted_beside_alpines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("builder.alpine.mirror", "builder.core.files", "builder.core.cache"):
        monkeypatch.setattr(f"{module}.CACHE", tmp_path / "cache")
    (tmp_path / "mine").mkdir()
    own = Alpine(keys=str(tmp_path / "mine"))
    with pytest.raises(UserError, match=r"there is no \*\.pub in"):
        package_keys(own)
    (tmp_path / "mine/me@example.org-1.rsa.pub").write_text("mine")
    alpines = {path.name for path in ALPINE_KEYS.glob("*.pub")}
    found = {path.name for path in package_keys(own).iterdir()}
    assert len(alpines) >= 3 and found == {*alpines, "me@example.org-1.rsa.pub"}
    assert package_keys(Alpine()) == ALPINE_KEYS
    (tmp_path / "mine" / min(alpines)).write_text("not Alpine's")
    with pytest.raises(UserError, match="another key has this name"):
        package_keys(own)


def test_each_package_has_a_line_of_its_own() -> None:
    assert (
        '"hook" = ["1-r0", 10, "hash", "main"]'
        in render(LOCK).replace("b" * 64, "hash").splitlines()
    )


def test_without_a_file_there_is_no_lock(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "apk.lock") is None


@pytest.mark.parametrize(
    ("old", "new", "pattern"),
    [
        (
            b"release =",
            b"<<<<<<< HEAD\nrelease =",
            r"marks of a merge conflict; keep the lines of \[us",
        ),
        (
            b"release =",
            b"\xff =",
            r"is damaged \(.*\): bring it back from git: git checkout apk\.lock",
        ),
        (
            b"[packages.system]",
            b"[packages.other]",
            r"is damaged \('no \[packages\.system\]'\): bring",
        ),
        (b"c" * 64, b"7", r"rope = .*, wanted \[version, bytes, SHA-256, repository\]"),
        (b"c" * 64, b"../../../etc/passwd", r"rope = .*passwd.*, wanted \[version, bytes, SHA-256"),
        (b'"rope" = ["2-r0"', b'"rope" = ["/../x"', r"rope = .*, wanted \[version, bytes"),
        (b"a" * 64, b"../index", r"main = \.\./index, wanted a SHA-256"),
        (b"https://mirror.example/alpine", b"/tmp", r"source = /tmp, wanted sample or a URL"),
        (
            b"lts = 1344",
            b"lts = 65537",
            r"\[slot_mib\] lts = 65537, wanted a whole number from 32 to",
        ),
        (b"lts = 1344", b"lts = true", r"\[slot_mib\] lts = True, wanted a whole"),
        (b"lts = 1344", b'lts = "1344"', r"\[slot_mib\] lts = '1344', wanted a whole"),
        (b"lts = 1344", b"lts = 20", r"\[slot_mib\] lts = 20, wanted a whole"),
        (b"[world]", b"world = 3\n[other]", r"is damaged \("),
    ],
)
def test_a_damaged_lock_is_refused(tmp_path: Path, old: bytes, new: bytes, pattern: str) -> None:
    data = render(LOCK).encode()
    assert old in data
    (tmp_path / "apk.lock").write_bytes(data.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"apk\.lock: .*{pattern}"):
        read_lock(tmp_path / "apk.lock")
    (tmp_path / "apk.lock").write_bytes(b"")
    with pytest.raises(UserError, match=r"apk\.lock: is damaged"):
        read_lock(tmp_path / "apk.lock")


def test_changes_are_told_by_package() -> None:
    newer = LockedPackage("hook", "2-r0", 11, "dd" * 32, "main")
    again = LockedPackage("rope", "2-r0", 20, "ee" * 32, "community")
    sling = LockedPackage("sling", "1-r0", 5, "ff" * 32, "main")
    after = replace(LOCK, packages={**LOCK.packages, "system": (newer, again, sling)})
    assert changes(LOCK, after) == [
        "system: hook 1-r0 -> 2-r0",
        "system: rope 2-r0 -> the same version, built again",
        "system: sling 1-r0 is new",
    ]
    assert changes(after, LOCK)[-1] == "system: sling 1-r0 goes"
    assert changes(LOCK, LOCK) == []
