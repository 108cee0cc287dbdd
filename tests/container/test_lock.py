"""Locking against a mirror that moves on: the real apk, small packages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from builder.alpine import archive
from builder.alpine.apk import World
from builder.alpine.apk_writer import Draft, Entry, SigningKey, write_index, write_package
from builder.alpine.lock import Lock
from builder.alpine.locking import is_current, make_lock
from builder.alpine.package_set import package_set
from builder.core.config import Alpine, OwnRepository
from builder.core.errors import UserError
from builder.engines.bubblewrap import Bubblewrap
from builder.sample.mirror import KEY_FILE, sample_mirror
from tests.mirror import Mirror

pytestmark = pytest.mark.container


class Shop:
    """A mirror of `rope`, which needs `hook`, and of whatever else is put into it."""

    def __init__(self, folder: Path, path: str = "v3.23/main/x86_64") -> None:
        self.folder = folder
        self.main = folder / path
        self.main.mkdir(parents=True)
        sample = sample_mirror("3.23")
        shutil.copytree(sample / "keys", folder / "keys")
        (self.static,) = (sample / "v3.23/main/x86_64").glob("apk-tools-static-*.apk")
        private = serialization.load_pem_private_key(KEY_FILE.read_bytes(), password=None)
        assert isinstance(private, rsa.RSAPrivateKey)
        self.key = SigningKey("belay-sample.rsa.pub", private)

    def offer(self, **versions: str) -> None:
        """Have just these packages, in these versions."""
        shutil.rmtree(self.main)
        self.main.mkdir()
        index = []
        for name, version in versions.items():
            fields = {"P": name, "V": version, "A": "x86_64", "T": name, "t": "1767225600"}
            if name == "rope":
                fields["D"] = "hook"
            entries = [Entry("usr", 0o755), Entry(f"usr/{name}", 0o755, version.encode() * 99)]
            data, entry = write_package(Draft(fields, entries), self.key)
            (self.main / f"{name}-{version}.apk").write_bytes(data)
            index.append(entry)
        static = self.static.read_bytes()
        (self.main / self.static.name).write_bytes(static)
        version = self.static.stem.removeprefix("apk-tools-static-")
        from builder.alpine.apk_format import control_checksum, gzip_streams

        checksum = control_checksum(gzip_streams(static)[1][0])
        index.append({"P": "apk-tools-static", "V": version, "S": str(len(static)), "C": checksum})
        (self.main / "APKINDEX.tar.gz").write_bytes(write_index(index, self.key, ""))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    yield Shop(tmp_path / "shop")


@pytest.fixture
def alpine(shop: Shop) -> Iterator[Alpine]:
    server = Mirror(shop.folder)
    yield Alpine(mirror=server.url, keys=str(shop.folder / "keys"), repositories=("main",))
    server.close()


class OwnShop(Shop):
    """A repository by itself, with a key of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "x86_64")
        private = rsa.generate_private_key(65537, 2048)
        self.key = SigningKey("me@example.org-5f.rsa.pub", private)
        self.key_file = folder / self.key.name
        pem, info = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        self.key_file.write_bytes(private.public_key().public_bytes(pem, info))
        self.server = Mirror(folder)
        self.url = self.server.url.replace("http://", "http://me:secret@")


@pytest.fixture
def own_shop(tmp_path: Path) -> Iterator[OwnShop]:
    shop = OwnShop(tmp_path / "own")
    yield shop
    shop.server.close()


def lock(
    alpine: Alpine, names: str, former: Lock | None = None, upgrade: tuple[str, ...] | None = None
) -> Lock:
    worlds = {"system": World("rootfs/world", tuple(names.split()), alpine.arch)}
    return make_lock(alpine, worlds, former, upgrade, Bubblewrap(), lambda done, total: None)


def versions(lock: Lock) -> dict[str, str]:
    return {package.name: package.version for package in lock.packages["system"]}


def test_what_is_locked_stays_when_the_mirror_moves_on(shop: Shop, alpine: Alpine) -> None:
    shop.offer(rope="1-r0", hook="1-r0", sling="1-r0")
    first = lock(alpine, "rope")
    assert versions(first) == {"rope": "1-r0", "hook": "1-r0"}

    shop.offer(rope="2-r0", hook="2-r0", sling="2-r0")
    assert lock(alpine, "rope", first) == first
    more = lock(alpine, "rope sling", first)
    assert versions(more) == {"rope": "1-r0", "hook": "1-r0", "sling": "2-r0"}
    assert versions(lock(alpine, "hook", first)) == {"hook": "1-r0"}

    later = lock(alpine, "rope", first, ("hook",))
    assert versions(later) == {"rope": "1-r0", "hook": "2-r0"}
    assert versions(lock(alpine, "rope", first, ())) == {"rope": "2-r0", "hook": "2-r0"}


def test_a_package_that_the_mirror_dropped_comes_from_the_archive(
    shop: Shop, alpine: Alpine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.offer(rope="1-r0", hook="1-r0")
    first = lock(alpine, "rope")
    shop.offer(rope="2-r0", hook="2-r0")
    package_set(first, alpine, lambda done, total: None)  # from this machine's own

    own = archive.PACKAGES
    monkeypatch.setattr(archive, "PACKAGES", tmp_path / "empty")
    with pytest.raises(UserError, match=r"hook-1-r0\.apk: the mirror answers: 404"):
        package_set(first, alpine, lambda done, total: None)

    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "packages").symlink_to(own)
    server = Mirror(tmp_path / "served")
    try:
        package_set(first, replace(alpine, archive=server.url), lambda done, total: None)
    finally:
        server.close()
    assert all(archive.is_here(package.sha256) for package in first.packages["system"])


def test_a_package_that_was_replaced_is_refused(
    shop: Shop, alpine: Alpine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.offer(rope="1-r0", hook="1-r0")
    first = lock(alpine, "hook")
    shop.offer(hook="1-r0", sling="1-r0")
    (shop.main / "hook-1-r0.apk").write_bytes((shop.main / "sling-1-r0.apk").read_bytes())
    monkeypatch.setattr(archive, "PACKAGES", tmp_path / "empty")
    with pytest.raises(UserError, match=r"hook-1-r0\.apk: is not the package that is locked"):
        package_set(first, alpine, lambda done, total: None)
    assert not archive.is_here(first.packages["system"][0].sha256)


def test_repositories_beyond_the_mirror(
    shop: Shop, own_shop: OwnShop, alpine: Alpine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shop.offer(rope="1-r0", hook="1-r0")
    own_shop.offer(rope="5-r0", hook="5-r0", reel="1-r0")
    own = OwnRepository(own_shop.url, str(own_shop.key_file))
    url = own_shop.server.url
    without = lock(alpine, "rope")

    both = replace(alpine, own=(own,))
    found = lock(both, "rope reel")
    assert versions(found) == {"rope": "5-r0", "hook": "5-r0", "reel": "1-r0"}
    assert {p.repository for p in found.packages["system"]} == {url}, "without the password"
    assert set(found.indexes) == {"main", url}
    assert not is_current(without, both, {"system": World("rootfs/world", ("rope",), both.arch)})
    assert versions(lock(both, "rope reel", without)) == {
        "rope": "1-r0",
        "hook": "1-r0",
        "reel": "1-r0",
    }

    tagged = replace(alpine, own=(replace(own, tag="mine"),))
    assert versions(lock(tagged, "rope hook@mine")) == {"rope": "1-r0", "hook": "5-r0"}

    # Where it goes, gets a tag, or has another URL, other packages are asked for.
    assert versions(lock(alpine, "rope", found)) == {"rope": "1-r0", "hook": "1-r0"}
    assert versions(lock(tagged, "rope", found))["rope"] == "1-r0"
    own_shop.offer(rope="5-r0", hook="5-r0", reel="1-r0", line="1-r0")
    twice = replace(alpine, own=(own, replace(own, tag="one"), replace(own, tag="two")))
    wanted = {"hook": "5-r0", "reel": "1-r0", "line": "1-r0"}
    assert versions(lock(twice, "hook reel@one line@two")) == wanted

    monkeypatch.setattr(archive, "PACKAGES", tmp_path / "empty")
    assert package_set(found, both, lambda done, total: None).folder("system")
    monkeypatch.setattr(archive, "PACKAGES", tmp_path / "empty too")
    with pytest.raises(UserError, match=f"is from {url}, which is no repository in image.toml"):
        package_set(found, alpine, lambda done, total: None)


def test_a_key_counts_for_its_own_repository_only(
    shop: Shop, own_shop: OwnShop, alpine: Alpine
) -> None:
    own = OwnRepository(own_shop.url, str(own_shop.key_file))
    alpines = shop.key
    shop.key = own_shop.key
    shop.offer(rope="6-r0", hook="6-r0")
    with pytest.raises(UserError, match=r"v3\.23/main/x86_64/APKINDEX\.tar\.gz: .*me@example"):
        lock(replace(alpine, own=(own,)), "rope")
    with pytest.raises(UserError, match=r"there is no key keys/none\.pub"):
        lock(replace(alpine, own=(replace(own, key="keys/none.pub"),)), "rope")
    shop.key = alpines
    shop.offer(rope="1-r0", hook="1-r0")
    own_shop.offer(reel="1-r0")
    own_shop.key_file.write_text("no key")
    with pytest.raises(UserError, match=r"me@example\.org-5f\.rsa\.pub: is no public RSA key"):
        lock(replace(alpine, own=(own,)), "reel")


def test_worlds_say_what_apk_understands(shop: Shop, alpine: Alpine) -> None:
    shop.offer(rope="2-r0", hook="2-r0", sling="2-r0")
    assert versions(lock(alpine, "rope hook=2-r0 sling>1")) == dict.fromkeys(
        ("rope", "hook", "sling"), "2-r0"
    )
    assert versions(lock(alpine, "hook~2")) == {"hook": "2-r0"}
    for words, output in {
        "rope hook=1-r0": "hook=1-r0 is asked for, and the mirror has hook-2-r0, which rope-2",
        "hook<2": "rootfs/world: hook<2 is asked for, and the mirror has hook-2-r0\nchange root",
        "rope !hook": "!hook is asked for, and the mirror has hook-2-r0, which rope-2-r0 needs",
        "rope@nowhere": "rootfs/world: rope@nowhere: no repository has the tag nowhere; give it to",
        "noose=1-r0": "rootfs/world: the mirror has no package noose",
    }.items():
        with pytest.raises(UserError) as caught:
            lock(alpine, words)
        assert output in str(caught.value)


def test_a_package_that_is_new_on_the_mirror_is_found(shop: Shop, alpine: Alpine) -> None:
    shop.offer(rope="1-r0", hook="1-r0")
    first = lock(alpine, "rope")
    with pytest.raises(UserError, match="the mirror has no package reel"):
        lock(alpine, "rope reel", first)
    shop.offer(rope="2-r0", hook="2-r0", reel="1-r0")
    found = versions(lock(alpine, "rope reel", first))
    assert found == {"rope": "1-r0", "hook": "1-r0", "reel": "1-r0"}
    away = replace(alpine, mirror="http://127.0.0.1:1")
    with pytest.raises(UserError, match="the mirror has no package loop"):
        lock(away, "rope loop", first)
