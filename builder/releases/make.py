"""Makes a release: from the tree that a tag names, into the store."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from builder.alpine.lock import lock_file, lock_of
from builder.alpine.locking import is_stand_in
from builder.core.config import AUTO, Config
from builder.core.errors import UserError
from builder.core.git import git
from builder.core.output import say
from builder.core.paths import BUILD, PROJECT
from builder.core.progress import Progress
from builder.disk.table import read_table
from builder.releases.changes import changes, versions
from builder.releases.chunks import write_slot, write_xz
from builder.releases.deltas import Packed, Price, Prove, make_deltas, whole_price
from builder.releases.keys import PUBLIC_KEYS, Sign
from builder.releases.publish import SITE, channel_names, current_channel
from builder.releases.sbom import installed, sbom
from builder.releases.store import DISK_IMAGE, Store
from builder.releases.targets import target_of
from updater.contract import (
    PARTITION_SLOT_A,
    PARTITION_SLOT_B,
    arch_folder,
)
from updater.errors import Refused
from updater.formats import VERSION, Manifest, SlotImage, version_key
from updater.signature import PublicKey, read_keys

PARTS_LIST, LOCK, CHANGES, PRICES = "sbom.json", "apk.lock", "changes.json", "prices.json"

OTHERS = "any other release"  # in the place of a version: those without a delta


def store_of(config: Config) -> Store:
    """Where this machine keeps releases of this system: apart from `build/`, which may go."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    folder = os.environ.get("BELAY_STORE") or Path(data) / "belay" / config.os.name
    return Store(Path(folder) / arch_folder(config.alpine.arch))


def trusted_keys() -> list[PublicKey]:
    """The keys that the image carries. Raises UserError where a file there is none."""
    try:
        return read_keys(PUBLIC_KEYS)
    except Refused as error:
        raise UserError(str(error)) from None


def config_of_tag(config: Config, tag: str) -> Config:
    """The config of the release that `tag` names. Raises UserError where the tree is not that."""
    version = tag.removeprefix("v")
    if not VERSION.fullmatch(version):
        raise UserError(f"--tag {tag}: wanted a tag like v1.2.3 or v1.2.3-rc.1")
    commit = git("rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}", nothing=1)
    if commit is None:
        raise UserError(f"there is no tag {tag}", f"make it: git tag {tag}")
    if changed := git("status", "--porcelain"):
        raise UserError(
            "the tree has changes that no commit holds", f"commit them first:\n{changed}"
        )
    if commit != git("rev-parse", "HEAD"):
        raise UserError(f"this tree is not what {tag} names", f"bring it: git checkout {tag}")
    built = int(git("log", "-1", "--format=%ct", commit) or 0)
    return replace(config, os=replace(config.os, version=version, built=built))


def require_lock(config: Config, sample: bool) -> None:
    """Raise UserError where what a lock names may not be released."""
    path = lock_file(config)
    lock = lock_of(config)
    is_inside = path.is_relative_to(PROJECT)
    if lock is None or not is_inside or not git("ls-files", "--", str(path)):
        raise UserError(
            f"{path.name} is in no commit, so this tag says not which packages it has",
            f"make it: ./inv lock; then git add {path.name}, commit, and tag that",
        )
    if config.disk.slot_mib == AUTO and config.alpine.kernel not in lock.slots:
        raise UserError(
            f"{path.name} doesn't say yet how large slots are",
            "run ./inv lock; then commit that, and tag the commit",
        )
    if is_stand_in(lock, config.alpine) and not sample:
        raise UserError(
            f"{path.name} has the packages of the sample mirror, which get no security updates",
            "when Alpine's mirror can be reached: ./inv lock --upgrade; to try things: --sample, "
            'or mirror = "sample" in [alpine]',
        )


def require_same_commit(config: Config) -> None:
    """Raise UserError where the version was released already, of another commit.

    Where releases are for several architectures, one of them may be made, and others not yet.
    A manifest tells its commit by the time of it.
    """
    store, version = store_of(config), config.os.version
    if not store.release(version).exists():
        return
    if store.manifest(version, trusted_keys()).built != config.os.built:
        raise UserError(
            f"release {version} for {config.alpine.arch} exists already, of another commit",
            "a release never changes: take the next version",
        )


def make_release(
    config: Config, store: Store, sign: Sign, prove: Prove, progress: Progress
) -> tuple[Manifest, list[str]]:
    """Put what `build/` holds into the store, signed; the manifest, and what changed."""
    slot = (BUILD / "slot.img").resolve()
    disk = (BUILD / "disk.img").resolve()
    level = config.publish.level
    with progress.transfer("packing the slot image") as transferred:
        image = write_slot(slot, store.blobs, level, transferred)
    before = olders(config, store, config.os.version)
    image, prices = make_deltas(store, before, Packed(slot, image, store.blobs), prove, progress)
    prices += rest_of(store, prices, image, config.os.version)
    require_budget(config, prices)
    with disk.open("rb") as file:
        table = read_table(file)
    a, b = table[PARTITION_SLOT_A], table[PARTITION_SLOT_B]
    borders = [0, a.offset, b.offset, b.end]
    with progress.transfer("packing the disk image") as transferred:
        files = {DISK_IMAGE: write_xz(disk, borders, store.blobs, level, transferred)}
    manifest = Manifest(
        config.os.name, config.alpine.arch, config.os.version, config.os.built, image, files
    )
    packages = installed((BUILD / "chroot.tar").resolve())
    parts_list = sbom(packages, manifest)
    news: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / PARTS_LIST).write_text(parts_list)
        (folder / LOCK).write_bytes(lock_file(config).read_bytes())
        if old := release_before(store, manifest.version):
            found = changes(
                summary(store, old),
                (manifest.version, versions(json.loads(parts_list)), image.size),
            )
            (folder / CHANGES).write_text(json.dumps(asdict(found), indent=1) + "\n")
            news = found.lines()
        (folder / PRICES).write_text(json.dumps([asdict(price) for price in prices]) + "\n")
        for path in sorted(folder.iterdir()):
            files[path.name] = store.add_blob(path)
    store.add_release(manifest, sign)
    return manifest, news + [str(price) for price in prices]


def planned(config: Config, store: Store, prove: Prove, progress: Progress) -> list[Price]:
    """What nodes of each release would fetch if `build/slot.img` were released next."""
    slot = (BUILD / "slot.img").resolve()
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="plan-") as name:
        scratch = Store(Path(name))
        with progress.transfer("packing the slot image") as transferred:
            image = write_slot(slot, scratch.blobs, config.publish.level, transferred)
        before = olders(config, store)
        packed = Packed(slot, image, scratch.blobs)
        _, prices = make_deltas(store, before, packed, prove, progress)
        return prices + rest_of(store, prices, image)


def rest_of(
    store: Store, prices: Sequence[Price], image: SlotImage, version: str = ""
) -> list[Price]:
    """What nodes of all other releases fetch, older than `version` if that is given: everything."""
    priced = {price.version for price in prices}
    others = [
        older
        for older in store.versions()
        if older not in priced and (not version or version_key(older) < version_key(version))
    ]
    return [whole_price(OTHERS, image)] if others else []


def olders(config: Config, store: Store, version: str = "") -> list[Manifest]:
    """The releases from which nodes get deltas, the newest first: the last, and those of channels.

    Older than `version`, if one is given, and by keys that the image still trusts.
    """
    keys = trusted_keys()
    found: list[Manifest] = []
    served = _of_channels(config, keys) if config.publish.deltas else set()
    for older in reversed(store.versions()):
        if version and version_key(older) >= version_key(version):
            continue
        if len(found) < config.publish.deltas or older in served:
            with suppress(UserError):
                found.append(store.manifest(older, keys))
    return found


def _of_channels(config: Config, keys: list[PublicKey]) -> set[str]:
    """The versions that channels of the server name now."""
    if not config.publish.to:
        return set()
    found = set()
    try:
        target = target_of(config, "")
        for name in channel_names(target):
            if not name.endswith(SITE) and (channel := current_channel(target, name, keys)):
                found.add(channel.version)
    except UserError as error:
        say(f"note: which releases channels name can't be seen: {error}")
    return found


def require_budget(config: Config, prices: Sequence[Price]) -> None:
    """Raise UserError where nodes of an older release would fetch more than [publish] allows.

    Those from which no delta is wanted count only where there are no others.
    """
    for price in [price for price in prices if price.version != OTHERS] or prices:
        if config.publish.budget_mb and price.size > config.publish.budget_mb * 1_000_000:
            raise UserError(
                f"{price}: more than budget_mb = {config.publish.budget_mb} in [publish] allows",
                "leave out what costs most, or raise budget_mb in image.toml",
            )


def release_before(store: Store, version: str) -> Manifest | None:
    """The newest release before `version`, of those by keys that the image still trusts."""
    keys = trusted_keys()
    for older in reversed(store.versions()):
        with suppress(UserError):
            if version_key(older) < version_key(version):
                return store.manifest(older, keys)
    return None


def price(store: Store, manifest: Manifest, before: str) -> Price | None:
    """What nodes of an older release fetch, where that was noted when the release was made."""
    if blob := manifest.files.get(PRICES):
        for values in json.loads((store.blobs / blob.sha256).read_text()):
            if values["version"] == before:
                files = tuple((name, size) for name, size in values["files"])
                return Price(**{**values, "files": files})
    return None


def summary(store: Store, manifest: Manifest) -> tuple[str, dict[str, str], int]:
    """What two releases are compared by: version, packages, size of the slot image."""
    parts_list = store.blobs / manifest.files[PARTS_LIST].sha256
    return manifest.version, versions(json.loads(parts_list.read_text())), manifest.slot.size
