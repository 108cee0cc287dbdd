"""Makes a lock: solves the worlds with the real apk, and changes no more than it must."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tasks.alpine import archive
from tasks.alpine.apk import STATIC, Apk, static_root
from tasks.alpine.apk_format import Package, read_index, verify_index
from tasks.alpine.lock import Lock, LockedPackage
from tasks.alpine.mirror import INDEX, Mirror, choose_mirror, folder_of, mirror_of
from tasks.core.config import Alpine
from tasks.core.errors import UserError
from tasks.core.files import write_atomically
from tasks.core.paths import CACHE
from tasks.engines.engine import Engine

Progress = Callable[[int, int], None]  # bytes that came, bytes in all
World = tuple[str, tuple[str, ...]]  # the file that names packages, and their names
Upgrade = tuple[str, ...] | None  # packages to upgrade; () is all of them, None is none

INDEXES = CACHE / "indexes"


def is_current(lock: Lock, alpine: Alpine, worlds: Mapping[str, World]) -> bool:
    """Whether a lock is for this release and these worlds."""
    wanted = {name: tuple(sorted(names)) for name, (_, names) in worlds.items()}
    return (lock.release, lock.arch, lock.wanted) == (alpine.release, alpine.arch, wanted)


def make_lock(
    alpine: Alpine,
    worlds: Mapping[str, World],
    former: Lock | None,
    upgrade: Upgrade,
    engine: Engine,
    progress: Progress,
) -> Lock:
    """A lock for `worlds`, as near to the former one as it can be. Brings all its packages.

    Raises UserError where the mirror, a signature, a package or a world is wrong.
    """
    if former and (former.release, former.arch) != (alpine.release, alpine.arch):
        former = None
    mirror = mirror_of(alpine, former.source) if former else choose_mirror(alpine)
    indexes = _indexes(mirror, alpine, former if upgrade is None else None)
    known = {
        (package.name, package.version): (package, repository)
        for repository, data in reversed(indexes.items())
        for package in read_index(data, folder_of(alpine, repository))
    }
    kept = {package.sha256: package for package in _packages(former) if upgrade != ()}
    archive.fetch_locked(alpine, lambda: mirror, kept.values(), lambda size: None)

    static = _first_apk(mirror, known, former if upgrade != () else None)
    root = static_root(archive.place_of(static.sha256))
    apk = Apk(engine, root, mirror.keys, alpine)
    versions = {}
    with tempfile.TemporaryDirectory() as folder:
        for repository, data in indexes.items():
            write_atomically(Path(folder) / folder_of(alpine, repository) / INDEX, data)
        for name, world in worlds.items():
            before = former.packages.get(name, ()) if former and upgrade != () else ()
            paths = [archive.place_of(package.sha256) for package in before]
            upgraded = [u for u in upgrade or () if any(p.name == u for p in before)]
            versions[name] = apk.resolve(Path(folder), world, paths, upgraded)

    kept_versions = {(package.name, package.version): package for package in kept.values()}
    fresh = [
        known[version]
        for version in sorted({version for some in versions.values() for version in some})
        if version not in kept_versions
    ]
    hashes = _bring(mirror, [package for package, _ in fresh], progress)
    locked = dict(kept_versions)
    for p, repository in fresh:
        sha256 = hashes[p.checksum]
        locked[p.name, p.version] = LockedPackage(p.name, p.version, p.size, sha256, repository)
    return Lock(
        alpine.release,
        alpine.arch,
        mirror.source,
        {repository: hashlib.sha256(data).hexdigest() for repository, data in indexes.items()},
        {name: tuple(sorted(names)) for name, (_, names) in worlds.items()},
        {
            STATIC: (static,),
            **{name: tuple(locked[version] for version in some) for name, some in versions.items()},
        },
    )


def changes(former: Lock | None, lock: Lock) -> list[str]:
    """What a new lock changes, one line a package: `kmod 34.2-r1 -> 34.3-r0`."""
    old = {(world, p.name): p for world, p in _by_world(former)}
    new = {(world, p.name): p for world, p in _by_world(lock)}
    lines = []
    for key in sorted(old.keys() | new.keys()):
        world, name = key
        before, after = old.get(key), new.get(key)
        if before and not after:
            lines.append(f"{world}: {name} {before.version} goes")
        elif after and not before:
            lines.append(f"{world}: {name} {after.version} is new")
        elif before and after and before != after:
            again = "the same version, built again" if before.version == after.version else ""
            lines.append(f"{world}: {name} {before.version} -> {again or after.version}")
    return lines


def _by_world(lock: Lock | None) -> Iterable[tuple[str, LockedPackage]]:
    worlds = lock.packages if lock else {}
    return ((world, package) for world, some in worlds.items() for package in some)


def _packages(lock: Lock | None) -> list[LockedPackage]:
    return [package for _, package in _by_world(lock)]


def _indexes(mirror: Mirror, alpine: Alpine, former: Lock | None) -> dict[str, bytes]:
    """The verified index of each repository; those of the former lock, if they are still here."""
    if former and set(former.indexes) == set(alpine.repositories):
        places = {name: INDEXES / former.indexes[name] for name in alpine.repositories}
        if all(place.is_file() for place in places.values()):
            return {name: place.read_bytes() for name, place in places.items()}
    found = {}
    for repository in alpine.repositories:
        path = f"{folder_of(alpine, repository)}/{INDEX}"
        found[repository] = mirror.read(path)
        verify_index(found[repository], mirror.keys, f"{mirror.location}/{path}")
    for data in found.values():
        write_atomically(INDEXES / hashlib.sha256(data).hexdigest(), data)
    return found


def _first_apk(
    mirror: Mirror, known: Mapping[tuple[str, str], tuple[Package, str]], former: Lock | None
) -> LockedPackage:
    if former:
        return former.packages[STATIC][0]
    for package, repository in known.values():
        if package.name == STATIC:
            hashes = archive.fetch_indexed(mirror, [package], lambda size: None)
            sha256 = hashes[package.checksum]
            return LockedPackage(STATIC, package.version, package.size, sha256, repository)
    raise UserError(f"{mirror.location} has no {STATIC}")


def _bring(mirror: Mirror, packages: list[Package], progress: Progress) -> dict[str, str]:
    total, come = sum(package.size for package in packages), 0

    def count(size: int) -> None:
        nonlocal come
        come += size
        progress(come, total)

    return archive.fetch_indexed(mirror, sorted(packages, key=lambda p: -p.size), count)
