"""`inv lock` and `inv fetch` from a mirror over HTTP, laid out like Alpine's: honest and bad ones.

Each test has a cache of its own, and a mirror that serves the sample. What a test breaks it mends
again, and sees the same command succeed: a refusal leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.alpine import archive as archive_module
from builder.alpine import lock as locks
from builder.alpine import locking, worlds
from builder.alpine import mirror as mirrors
from builder.alpine.lock import Lock
from builder.core import files
from builder.core.config import Alpine, Config
from builder.core.paths import CACHE
from builder.core.progress import Progress
from builder.engines.bubblewrap import Bubblewrap
from builder.steps import plan
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
    # Built for the lock already: it has the numbers of users.
    steps = json.loads(inv.succeeds("chroot", "--json"))
    assert [(step["step"], step["state"]) for step in steps] == [("chroot", "cached")]


def test_a_mirror_that_cannot_be_reached_is_named(inv: Inv) -> None:
    output = inv.fails("lock", BELAY_ALPINE_MIRROR="http://127.0.0.1:1")
    assert "http://127.0.0.1:1/v3.23/main" in output
    assert "can't be reached" in output and "Connection refused" in output


def test_a_package_that_the_mirror_lacks_is_named(inv: Inv, mirror: Mirror) -> None:
    output = inv.fails("lock", BELAY_ALPINE_KERNEL="lts")
    assert 'kernel = "lts" in [alpine] of image.toml: the mirror has no package linux-lts' in output
    assert "rootfs/world" not in output, "that file names no kernel"
    inv.succeeds("lock")


@pytest.mark.parametrize("encoding", ["x-gzip", "gzip", "br", "nonsense"])
def test_a_label_of_the_server_changes_no_byte(inv: Inv, mirror: Mirror, encoding: str) -> None:
    """Apache's AddEncoding derives it from the name: nobody asked for an encoding."""
    mirror.encoding = encoding
    inv.succeeds("lock")


def test_a_password_is_told_to_the_mirror_alone(inv: Inv, mirror: Mirror) -> None:
    mirror.login = "builder:s3cret pw@x"
    private = mirror.url.replace("http://", "http://builder:s3cret%20pw%40x@")
    output = inv.fails("lock")
    assert "401" in output and "in the URL (by the environment), or in ~/.netrc" in output
    done = inv("chroot", BELAY_ALPINE_MIRROR=private)
    assert done.returncode == 0, done.stderr
    assert f'source = "{mirror.url}"' in inv.lock.read_text()
    # With the lock that knows no password, a new world and a package that isn't here.
    world = {"BELAY_BOOT_PACKAGES": "curl"}
    for path in (inv.cache / "packages").glob("*"):
        path.unlink()
    more = inv("initramfs", BELAY_ALPINE_MIRROR=private, **world)
    assert more.returncode == 0, more.stderr
    mirror.changed[INDEX] = None
    wrong = inv("lock", "--upgrade", BELAY_ALPINE_MIRROR=private)
    mirror.close()
    away = inv("lock", "--upgrade", BELAY_ALPINE_MIRROR=private)
    for text in (done, more, wrong, away):
        assert "s3cret" not in text.stdout + text.stderr
    assert wrong.returncode and away.returncode
    logs = "".join(path.read_text(errors="replace") for path in inv.build.rglob("*.log"))
    assert "s3cret" not in inv.lock.read_text() + logs


def test_netrc_is_believed(inv: Inv, mirror: Mirror, tmp_path: Path) -> None:
    mirror.login = "builder:other"
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login builder password other\n")
    netrc.chmod(0o600)
    inv.succeeds("lock", NETRC=str(netrc))


def test_certificates_that_are_gone_are_named(inv: Inv) -> None:
    env = {"BELAY_ALPINE_MIRROR": "https://127.0.0.1:1", "REQUESTS_CA_BUNDLE": "/nowhere.pem"}
    output = inv.fails("lock", **env)
    assert "/nowhere.pem" in output and "see REQUESTS_CA_BUNDLE" in output


def test_what_the_mirror_has_dropped_is_said_with_a_remedy(inv: Inv, mirror: Mirror) -> None:
    mirror.changed[mirror.package("kmod")] = None
    output = inv.fails("lock")
    assert (
        "404" in output
        and "is in the middle of an update" in output
        and "or another mirror" in output
    )


@pytest.fixture
def auto(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Settings with mirror = "auto", whose public mirror is this one; in places of their own."""
    monkeypatch.setattr(mirrors, "ALPINE_MIRROR", mirror.url)
    monkeypatch.setattr(mirrors, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(mirrors, "ALPINE_KEYS", mirror.folder / "keys")
    for module in (mirrors, archive_module, files, locking):
        if hasattr(module, "CACHE"):
            monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    for module in (plan, worlds, locks):
        monkeypatch.setattr(module, "lock_file", lambda config: tmp_path / "apk.lock")
    return Config(alpine=Alpine(mirror="auto"))


def lock_of(config: Config, at_once: bool = False) -> Lock:
    return worlds.locked(config, Bubblewrap(), Progress(), None, at_once)[0]


def test_one_hiccup_does_not_lead_to_the_sample(auto: Config, mirror: Mirror) -> None:
    mirror.failures = 3
    assert lock_of(auto).source == mirror.url


def test_the_mirror_takes_its_place_when_it_is_back(
    auto: Config, mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.failures = 999
    assert lock_of(auto).source == "sample"
    plan.fetched(auto, Bubblewrap(), Progress())
    assert "note: these are the sample mirror's packages" in capsys.readouterr().err
    mirror.failures = 0
    mirror.requests.clear()
    assert lock_of(auto).source == "sample" and not mirror.requests, "it is asked once an hour"
    os.utime(tmp_path / "cache/mirror-asked", (0, 0))
    assert lock_of(auto).source == mirror.url
    assert "Alpine's mirror answers again" in capsys.readouterr().err
    plan.fetched(auto, Bubblewrap(), Progress())
    assert "note: these are the sample" not in capsys.readouterr().err


def test_another_sample_is_locked_anew(tmp_path: Path, mirror: Mirror) -> None:
    """It is made of what Debian has: on another machine, or day, its packages may be others."""
    inv = Inv(tmp_path, mirror)
    inv.env |= {"BELAY_CACHE": str(CACHE), "BELAY_ALPINE_MIRROR": "sample"}
    inv.succeeds("lock")
    ours = inv.lock.read_text()
    theirs = re.sub(r'(?m)^((main|"zstd") = .*)"[0-9a-f]{64}"', rf'\g<1>"{"0" * 64}"', ours)
    assert theirs.count("0" * 64) == 2
    inv.lock.write_text(theirs)
    output = inv("lock").stderr
    assert "apk.lock: the sample mirror has other packages on this machine" in output
    assert re.search("container: zstd .* -> the same version, built again", output)
    assert inv.lock.read_text() == ours
    assert "packages from sample, as before" in inv("lock").stderr


def test_lock_asks_at_once(auto: Config, mirror: Mirror) -> None:
    mirror.failures = 999
    assert lock_of(auto).source == "sample"
    mirror.failures = 0
    assert lock_of(auto, at_once=True).source == mirror.url


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
    output = inv.fails("lock")
    assert f"{mirror.url}{path}: " in output
    assert any(words in output for words in message.split("|")), output
    mirror.changed.clear()
    inv.succeeds("lock")


def test_a_mirror_signed_by_an_unknown_key_is_refused(inv: Inv) -> None:
    output = inv.fails("lock", BELAY_ALPINE_KEYS="builder/alpine/keys")
    assert "is not signed by any of the keys" in output
    inv.succeeds("lock")
