"""Makes a lock: solves the worlds with the real apk, and changes no more than it must."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder.alpine import archive
from builder.alpine.apk import STATIC, Apk, Version, World, static_root
from builder.alpine.apk_format import INDEX, Package, read_index, verify_index
from builder.alpine.lock import Lock, LockedPackage
from builder.alpine.mirror import (
    SAMPLE,
    Mirror,
    Repository,
    Unreachable,
    choose_mirror,
    mirror_of,
    repositories_of,
    repository_names,
    same_source,
    trusted_keys,
)
from builder.core.arch import host_arch
from builder.core.config import EDGE, Alpine
from builder.core.errors import UserError
from builder.core.files import write_atomically
from builder.core.paths import CACHE
from builder.engines.engine import Engine

Upgrade = tuple[str, ...] | None  # packages to upgrade; () is all of them, None is none

INDEXES = CACHE / "indexes"


def is_current(lock: Lock, alpine: Alpine, worlds: Mapping[str, World]) -> bool:
    """Whether a lock is for this release and these worlds."""
    wanted = {name: tuple(sorted(world.names)) for name, world in worlds.items()}
    same_places = set(lock.indexes) == set(repository_names(alpine))
    return _goes_on(lock, alpine) and lock.wanted == wanted and same_places


def is_stand_in(lock: Lock, alpine: Alpine) -> bool:
    """Whether the sample took the place of a mirror, and nobody asked for that."""
    return lock.source == SAMPLE and alpine.mirror == "auto"


def sample_has_changed(lock: Lock, alpine: Alpine) -> bool:
    """Whether a lock is of another sample than this machine has.

    It is made of what Debian, or Ubuntu, has on that day, so it is not the same everywhere.
    """
    if lock.source != SAMPLE:
        return False
    sample = mirror_of(alpine, SAMPLE)
    return any(
        hashlib.sha256(sample.read(f"{repository.folder}/{INDEX}")).hexdigest()
        != lock.indexes.get(repository.name)
        for repository in repositories_of(alpine, sample).values()
        if repository.mirror is sample
    )


@dataclass(frozen=True)
class _Solution:
    """What apk says is needed: by world names and versions, and of those what has to be fetched."""

    versions: Mapping[str, list[Version]]
    fresh: Mapping[Version, tuple[Package, Repository]]


@dataclass(frozen=True)
class _Whole:
    """The solutions of all architectures, with what they were found in and by."""

    indexes: Mapping[str, bytes]
    static: LockedPackage
    parts: Sequence[tuple[_Solver, _Solution]]

    @property
    def fresh(self) -> list[tuple[Package, Repository]]:
        """All that has to be fetched."""
        return [found for _, part in self.parts for found in part.fresh.values()]


@dataclass(frozen=True)
class _Solver:
    """Solves worlds of one architecture.

    The packages of `former` stay, but for those in `upgraded`.
    """

    arch: str
    alpine: Alpine
    worlds: Mapping[str, World]
    mirror: Mirror
    engine: Engine
    former: Lock | None
    upgraded: tuple[str, ...]

    @property
    def kept(self) -> dict[Version, LockedPackage]:
        """The packages of the former lock."""
        known = self.former.packages if self.former else {}
        some = (package for world in self.worlds for package in known.get(world, ()))
        return {(package.name, package.version): package for package in some}

    def solve(self, all_indexes: Mapping[str, bytes], static: LockedPackage) -> _Solution:
        """Solve with these indexes, by the first apk. Raises UserError if a world can't be had."""
        repositories = repositories_of(self.alpine, self.mirror)
        indexes = {n: data for n, data in all_indexes.items() if repositories[n].arch == self.arch}
        known = _known(indexes, repositories)
        root = static_root(archive.place_of(static.sha256))
        keys = trusted_keys(self.alpine, self.mirror)
        apk = Apk(self.engine, root, keys, self.alpine.kernel)
        versions = {}
        with tempfile.TemporaryDirectory() as folder:
            lines = []
            for number, (name, data) in enumerate(indexes.items()):
                write_atomically(Path(folder) / f"{number}/{self.arch}/{INDEX}", data)
                tag = f"@{repositories[name].tag} " if repositories[name].tag else ""
                lines.append(f"{tag}/srv/in/mirror/{number}\n")
            (Path(folder) / "repositories").write_text("".join(lines))
            for name, world in self.worlds.items():
                before = self.former.packages.get(name, ()) if self.former else ()
                paths = [archive.place_of(package.sha256) for package in before]
                upgraded = [u for u in self.upgraded if any(p.name == u for p in before)]
                versions[name] = apk.resolve(Path(folder), world, paths, upgraded)
        needed = sorted({version for some in versions.values() for version in some})
        kept = self.kept
        fresh = {version: known[version] for version in needed if version not in kept}
        return _Solution(versions, fresh)


def _known(
    indexes: Mapping[str, bytes], repositories: Mapping[str, Repository]
) -> dict[Version, tuple[Package, Repository]]:
    """What these indexes have; of two packages that are the same, that of the first one."""
    return {
        (package.name, package.version): (package, repositories[name])
        for name, data in reversed(list(indexes.items()))
        for package in read_index(data, repositories[name].folder)
    }


@dataclass(frozen=True)
class _Solvers:
    """A solver for each architecture: that of the image, and that of the tools."""

    solvers: tuple[_Solver, ...]

    def solve(self, indexes: Mapping[str, bytes]) -> _Whole:
        """See _Solver.solve."""
        first = self.solvers[0]
        former, repositories = first.former, repositories_of(first.alpine, first.mirror)
        static = next(iter(former.packages[STATIC]), None) if former else None
        if not static:
            arch = host_arch().name
            tools = {n: data for n, data in indexes.items() if repositories[n].arch == arch}
            static = _first_apk(first.mirror, _known(tools, repositories))
        return _Whole(indexes, static, [(s, s.solve(indexes, static)) for s in self.solvers])


def make_lock(
    alpine: Alpine,
    worlds: Mapping[str, World],
    former: Lock | None,
    upgrade: Upgrade,
    engine: Engine,
    transferred: archive.Transferred,
) -> Lock:
    """A lock for `worlds`, as near to the former one as it can be. Brings all its packages.

    Raises UserError where the mirror, a signature, a package or a world is wrong.
    """
    if upgrade == () or (former and not _goes_on(former, alpine)):
        former = None
    if former:
        # What isn't there any more, or has another tag, is asked for anew.
        names = repository_names(alpine)
        kept = {
            world: tuple(package for package in some if package.repository in names)
            for world, some in former.packages.items()
        }
        former = replace(former, packages=kept)
    mirror = mirror_of(alpine, same_source(alpine, former.source)) if former else None
    mirror = mirror or choose_mirror(alpine)
    archive.fetch_locked(alpine, lambda: mirror, _packages(former), transferred)
    arches = dict.fromkeys(world.arch for world in worlds.values())
    solver = _Solvers(
        tuple(
            _Solver(
                arch, alpine, {n: world for n, world in worlds.items() if world.arch == arch},
                mirror, engine, former, upgrade or (),
            )
            for arch in arches
        )
    )  # fmt: skip

    kept_indexes = _kept_indexes(alpine, former) if upgrade is None else None
    solution, problem = None, None
    if kept_indexes:
        try:
            solution = solver.solve(kept_indexes)
        except UserError as error:  # the mirror may have it by now
            problem = error
    # What the kept index names and isn't here, the mirror may have dropped since.
    if not solution or not all(
        archive.has_indexed(p, repository.mirror.keys) for p, repository in solution.fresh
    ):
        try:
            indexes = _fetched_indexes(mirror, alpine)
        except Unreachable as error:
            raise problem or error from None
        solution = solver.solve(indexes)

    _check_release(alpine, solution)
    hashes = archive.fetch_indexed(solution.fresh, transferred)
    packages = {}
    for part, found in solution.parts:
        locked = part.kept
        for version, (p, repository) in found.fresh.items():
            sha256 = hashes[p.checksum]
            locked[version] = LockedPackage(p.name, p.version, p.size, sha256, repository.name)
        for name, some in found.versions.items():
            packages[name] = tuple(locked[version] for version in some)
    return Lock(
        alpine.release,
        alpine.arch,
        mirror.source,
        {name: hashlib.sha256(data).hexdigest() for name, data in solution.indexes.items()},
        {name: tuple(sorted(world.names)) for name, world in worlds.items()},
        {STATIC: (solution.static,), **packages},
    )


def _check_release(alpine: Alpine, solution: _Whole) -> None:
    """Where one release is asked for, the mirror must have it: it keeps only the newest."""
    if alpine.release == EDGE:
        return
    found = (v for _, part in solution.parts for some in part.versions.values() for v in some)
    for name, version in found:
        release = version.rpartition("-r")[0]
        if name == "alpine-release" and not f"{release}.".startswith(f"{alpine.release}."):
            raise UserError(
                f"the mirror has Alpine {release}, and {alpine.release} is asked for",
                "mirrors "
                "keep only the newest of a branch: bring back the lock of that release from git",
            )


def _goes_on(former: Lock, alpine: Alpine) -> bool:
    """Whether a lock can be changed into one for `alpine`; else a new one is made.

    The sample's packages are built again, so they are not those of a mirror.
    """
    same_kind = alpine.mirror == "auto" or (alpine.mirror == SAMPLE) == (former.source == SAMPLE)
    return (former.release, former.arch) == (alpine.release, alpine.arch) and same_kind


def changes(former: Lock | None, lock: Lock) -> list[str]:
    """What a new lock changes, one line a package: `kmod 34.2-r1 -> 34.3-r0`."""
    old = {(world, p.name): p for world, p in _by_world(former)}
    new = {(world, p.name): p for world, p in _by_world(lock)}
    lines = []
    known = former.packages if former else {}
    for world in sorted(lock.packages.keys() ^ known.keys()):
        some = {**known, **lock.packages}[world]
        lines.append(f"{world}: {len(some)} packages {'go' if world in known else 'are new'}")
    for key in sorted(old.keys() | new.keys()):
        world, name = key
        if world not in known or world not in lock.packages:
            continue
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


def _kept_indexes(alpine: Alpine, former: Lock | None) -> dict[str, bytes] | None:
    """The indexes of the former lock, if they are still here."""
    names = repository_names(alpine)
    if former is None or set(former.indexes) != set(names):
        return None
    paths = {name: INDEXES / former.indexes[name] for name in names}
    if not all(path.is_file() for path in paths.values()):
        return None
    return {name: path.read_bytes() for name, path in paths.items()}


def _fetched_indexes(mirror: Mirror, alpine: Alpine) -> dict[str, bytes]:
    """The verified index of each repository as the mirror has it now; kept for later."""
    found = {}
    for name, repository in repositories_of(alpine, mirror).items():
        source, path = repository.mirror, f"{repository.folder}/{INDEX}"
        found[name] = source.read(path)
        verify_index(found[name], source.keys, f"{source.name}/{path}")
    for data in found.values():
        write_atomically(INDEXES / hashlib.sha256(data).hexdigest(), data)
    return found


def _first_apk(
    mirror: Mirror, known: Mapping[Version, tuple[Package, Repository]]
) -> LockedPackage:
    for package, repository in known.values():
        if package.name == STATIC:
            hashes = archive.fetch_indexed([(package, repository)], lambda done, total: None)
            sha256 = hashes[package.checksum]
            return LockedPackage(STATIC, package.version, package.size, sha256, repository.name)
    raise UserError(f"{mirror.name} has no {STATIC}")
