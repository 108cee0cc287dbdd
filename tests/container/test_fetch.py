"""`inv lock` and `inv fetch` from a mirror over HTTP, laid out like Alpine's: honest and bad ones.

Each test has a cache of its own, and a mirror that serves the sample. What a test breaks it mends
again, and sees the same command succeed: a refusal leaves nothing behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.inv import Inv
from tests.mirror import Mirror

pytestmark = pytest.mark.container

INDEX = "/v3.23/main/x86_64/APKINDEX.tar.gz"


@pytest.fixture
def inv(tmp_path: Path, mirror: Mirror) -> Inv:
    return Inv(tmp_path, mirror)


def test_a_build_needs_the_network_only_once(inv: Inv, mirror: Mirror) -> None:
    lock = json.loads(inv.succeeds("fetch", "--json"))
    assert lock["source"] == mirror.url
    names = [package["name"] for package in lock["packages"]["system"]]
    assert "linux-virt" in names and names == sorted(names)
    assert mirror.requests[0] == INDEX

    mirror.requests.clear()
    inv.succeeds("lock", "--upgrade")
    inv.succeeds("lock", "--upgrade", "musl,busybox")
    assert "apk.lock: found no package musk" in inv.fails("lock", "--upgrade", "musl,musk")
    assert {path.rpartition("/")[2] for path in mirror.requests} == {"APKINDEX.tar.gz"}

    mirror.close()
    steps = json.loads(inv.succeeds("chroot", "--json"))
    assert [(step["step"], step["state"]) for step in steps] == [("chroot", "built")]


def test_a_mirror_that_cannot_be_reached_is_named(inv: Inv) -> None:
    said = inv.fails("lock", BELAY_ALPINE_MIRROR="http://127.0.0.1:1")
    assert "http://127.0.0.1:1/v3.23/main" in said
    assert "can't be reached" in said and "Connection refused" in said


def test_a_package_that_the_mirror_lacks_is_named(inv: Inv, mirror: Mirror) -> None:
    said = inv.fails("lock", BELAY_ALPINE_KERNEL="lts")
    assert 'kernel = "lts" in [alpine] of image.toml: the mirror has no package linux-lts' in said
    assert "rootfs/world" not in said, "that file names no kernel"
    inv.succeeds("lock")


def broken(data: bytes) -> bytes:
    """The same size, and one byte of it changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("what", "change", "message"),
    [
        ("kmod", broken, "its files are not those that it was signed with|not a gzip stream"),
        ("kmod", lambda data: data[:-1000], "bytes, wanted"),
        ("kmod", lambda data: None, "404 Not Found"),
        ("apk-tools-static", broken, "not those that it was signed with|not a gzip stream"),
        ("", broken, "is wrong|not a gzip stream"),
        ("", lambda data: data[:-1000], "ends too early"),
        ("", lambda data: None, "404 Not Found"),
    ],
)
def test_what_is_broken_on_the_mirror_is_refused(
    inv: Inv, mirror: Mirror, what: str, change: Callable[[bytes], bytes | None], message: str
) -> None:
    path = mirror.package(what) if what else INDEX
    mirror.changed[path] = change(mirror.content(path))
    said = inv.fails("lock")
    assert f"{mirror.url}{path}: " in said
    assert any(words in said for words in message.split("|")), said
    mirror.changed.clear()
    inv.succeeds("lock")


def test_a_mirror_signed_by_an_unknown_key_is_refused(inv: Inv) -> None:
    said = inv.fails("lock", BELAY_ALPINE_KEYS="tasks/alpine/keys")
    assert "is not signed by any of the keys in" in said
    inv.succeeds("lock")
