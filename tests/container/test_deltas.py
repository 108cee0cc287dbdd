"""Deltas between real slots: squashfs of mksquashfs, made of random trees."""

from __future__ import annotations

import hashlib
import random
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from builder.core.progress import Progress
from builder.disk.squashfs import Squashfs
from builder.releases.chunks import write_slot
from builder.releases.deltas import Packed, Slots, make_delta, make_deltas
from builder.releases.ranges import pairs, regions
from builder.releases.store import Store
from tests.conftest import InContainer
from updater import delta as node
from updater.formats import CHUNK, Blob, Manifest, SlotImage

PARTS = ("boot", "root", "modloop")
# As the steps pack them.
PACK = """
for part in boot root modloop; do
    size=128K; [ $part = root ] || size=1M
    mksquashfs in/tree/$part out/$part -noappend -no-progress -quiet -b $size -comp gzip \\
        -noI -noD -noF -noX -no-exports -no-xattrs -all-root -mkfs-time 0 -all-time 0
done
cat out/boot out/root out/modloop >out/slot
"""


def random_tree(folder: Path, dice: random.Random) -> None:
    """Files of all sizes, some alike, some with holes, some under several names."""
    for part in PARTS:
        (folder / part).mkdir(parents=True)
        for number in range(dice.randrange(1, 30)):
            place = folder / part / f"d{dice.randrange(5)}" / f"file {number}"
            place.parent.mkdir(exist_ok=True)
            size = dice.choice((0, 1, 500, 5000, 60_000, 130_000, 300_000))
            data = dice.randbytes(size // 2) + bytes(size // 2)
            place.write_bytes(data)
            if dice.random() < 0.1:
                (place.parent / f"twin {number}").write_bytes(data)
    (folder / "modloop/modules/6.1.0-0-virt").mkdir(parents=True)
    (folder / "modloop/modules/6.1.0-0-virt/a.ko").write_bytes(dice.randbytes(90_000))


def changed_tree(old: Path, new: Path, dice: random.Random) -> None:
    """Another kernel's version, files that are new, gone, moved, longer, with changes inside."""
    shutil.copytree(old, new)
    (new / "modloop/modules/6.1.0-0-virt").rename(new / "modloop/modules/6.2.0-0-virt")
    for path in sorted(path for path in new.rglob("*") if path.is_file()):
        data, what = bytearray(path.read_bytes()), dice.random()
        if what < 0.1:
            path.unlink()
        elif what < 0.2:
            path.rename(path.with_name(f"{path.name} moved"))
        elif what < 0.4 and data:
            for _ in range(dice.randrange(1, 9)):
                data[dice.randrange(len(data))] ^= dice.randrange(1, 256)
            path.write_bytes(data)
        elif what < 0.5:
            at = dice.randrange(len(data) + 1)
            data[at:at] = dice.randbytes(dice.randrange(1, 3000))
            path.write_bytes(data)
    (new / "root/etc").mkdir()
    (new / "root/etc/new").write_bytes(dice.randbytes(20_000))


def slot(tree: Path, in_container: InContainer, out: Path) -> bytes:
    in_container(PACK, tree=tree)
    return (out / "slot").read_bytes()


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_made_of_the_old_slot_is_the_new_one(
    seed: int, tmp_path: Path, in_container: InContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.releases.ranges.CACHED", tmp_path / "cache")
    monkeypatch.setattr("builder.releases.deltas.CACHED", tmp_path / "cache")
    dice, out = random.Random(seed), tmp_path / "container output"
    random_tree(tmp_path / "old", dice)
    changed_tree(tmp_path / "old", tmp_path / "new", dice)
    old = slot(tmp_path / "old", in_container, out)
    new = slot(tmp_path / "new", in_container, out)
    (tmp_path / "image").write_bytes(new)
    image = write_slot(tmp_path / "image", tmp_path / "blobs", level=0)
    before = SlotImage(hashlib.sha256(old).hexdigest(), len(old), Blob("0" * 64, 1), ())
    manifest = Manifest("belay", "x86_64", "1.0.0", 0, before, {})
    slots = Slots(memoryview(old), memoryview(new), regions(memoryview(new)))
    delta, price = make_delta(slots, manifest, image, tmp_path / "blobs")

    blob = (tmp_path / "blobs" / delta.blob.sha256).read_bytes()
    active = tmp_path / "active"
    active.write_bytes(old)

    requests: list[int] = []

    def fetch(offset: int, size: int) -> bytes:
        requests.append(size)
        return blob[offset : offset + size]

    with node.Maker(image, delta, active, active, fetch) as maker:
        for number in maker.order()[0]:
            data = maker.chunk(number)
            if delta.pieces[number].size:
                assert data is not None, maker.problem
                assert bytes(data) == new[number * CHUNK : (number + 1) * CHUNK]
    assert sum(requests) == price.size, "each piece came once"
    assert len(requests) <= 2 + 2 * price.size // node.FETCH
    assert not maker.problem
    assert price.size < image.blob.size / 2, price
    assert sum(share for _, share in price.files) <= price.size
    assert "root/etc/new" in dict(price.files)


def test_a_release_that_knows_no_deltas_gets_none(
    tmp_path: Path, in_container: InContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_tree(tmp_path / "tree", random.Random(5))
    data = slot(tmp_path / "tree", in_container, tmp_path / "container output")
    (tmp_path / "image").write_bytes(data)
    monkeypatch.setattr("builder.releases.deltas.slot_of", lambda store, older: memoryview(data))
    image = SlotImage("0" * 64, len(data), Blob("0" * 64, 1), ())
    older, store = Manifest("belay", "x86_64", "1.0.0", 0, image, {}), Store(tmp_path)
    with Progress() as progress:
        found, prices = make_deltas(
            store,
            [older],
            Packed(tmp_path / "image", image, tmp_path / "blobs"),
            lambda _: nullcontext(lambda *_: b""),
            progress,
        )
    assert found.deltas == ()
    assert [(price.version, price.size) for price in prices] == [("1.0.0", prices[0].whole)]


def test_the_bytes_of_each_file_are_found(tmp_path: Path, in_container: InContainer) -> None:
    random_tree(tmp_path / "tree", random.Random(4))
    (tmp_path / "tree/root/hole").write_bytes(b"x" + bytes(3_000_000) + b"y")
    many = tmp_path / "tree/root/many"
    many.mkdir()
    for number in range(700):  # more than fit into one block of fragments, and of inodes
        (many / f"{number:04}").write_bytes(f"{number}".encode() * 100)
    data = memoryview(slot(tmp_path / "tree", in_container, tmp_path / "container output"))
    found = {region.name: region.content(data) for region in regions(data)}
    contents = {
        path.relative_to(tmp_path / "tree").as_posix(): path.read_bytes()
        for path in (tmp_path / "tree").rglob("*")
        if path.is_file()
    }
    named = {name: content for name, content in found.items() if ": " not in name}
    assert named == {name: contents[name] for name in named}
    assert set(contents.values()) - {b""} == set(named.values()) - {b""}, "twins once"
    taken = sum(
        extent.size
        for region in regions(data)
        for extent in region.extents
        if extent.offset is not None
    )
    assert taken > len(data) * 0.98
    assert all(same for *_, same in pairs(data, data))


def test_what_is_no_squashfs_is_refused() -> None:
    with pytest.raises(ValueError, match="no squashfs at byte 0"):
        Squashfs(memoryview(bytes(4096)))
