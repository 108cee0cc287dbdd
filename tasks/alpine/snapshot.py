"""A snapshot: all that a build needs of a mirror, so that it needs the network only once.

It holds the indexes as they were, the packages of the container and of the system, and the keys. It
never changes; refreshing makes another one. A small file for each configuration says which snapshot
it uses.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from tasks.alpine import archive
from tasks.alpine.apk import STATIC, Apk, static_root
from tasks.alpine.apk_format import Package, read_index, verify_index
from tasks.alpine.mirror import INDEX, Mirror, choose_mirror, folder_of
from tasks.core.config import Alpine
from tasks.core.errors import UserError
from tasks.core.files import folder_for, write_atomically
from tasks.core.paths import CACHE
from tasks.engines.engine import Engine

Progress = Callable[[int, int], None]  # bytes that came, bytes in all
World = tuple[str, tuple[str, ...]]  # the file that names packages, and their names


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that is there. `folder` has `mirror/`, laid out as one, and `keys/`."""

    folder: Path

    @property
    def mirror(self) -> Path:
        """The local copy of the mirror."""
        return self.folder / "mirror"

    @property
    def keys(self) -> Path:
        """The public keys by which it is trusted."""
        return self.folder / "keys"

    @cached_property
    def record(self) -> dict[str, object]:
        """What it is made of: `source`, and the packages of each world."""
        record: dict[str, object] = json.loads((self.folder / "snapshot.json").read_text())
        return record

    @property
    def source(self) -> str:
        """The mirror that it was taken from."""
        return str(self.record["source"])

    def packages(self, world: str) -> list[Package]:
        """The packages that a world needs, sorted by name."""
        worlds = self.record["worlds"]
        assert isinstance(worlds, dict)
        return [Package(**fields) for fields in worlds[world]]

    def digest(self, world: str) -> str:
        """The identity of a world's packages: the same wherever they came from."""
        lines = (f"{p.name} {p.version} {p.checksum}\n" for p in self.packages(world))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def apk(self, engine: Engine, alpine: Alpine) -> Apk:
        """The first apk, out of this snapshot."""
        package = self.packages(STATIC)[0]
        root = static_root(package, archive.place_of(package))
        return Apk(engine, root, self.mirror, self.keys, alpine)


def snapshot_for(
    alpine: Alpine,
    worlds: Mapping[str, World],
    engine: Engine,
    progress: Progress,
    refresh: bool = False,
) -> Snapshot:
    """The snapshot for a configuration: the one it used before, or a new one from the mirror.

    Raises UserError where the mirror, a signature or a package is wrong; the one used before stays.
    """
    asked = json.dumps([asdict(alpine), worlds], sort_keys=True)
    pointer = CACHE / "fetched" / hashlib.sha256(asked.encode()).hexdigest()[:16]
    if not refresh and pointer.exists():
        folder = CACHE / "snapshots" / pointer.read_text().strip()
        if folder.is_dir():
            return Snapshot(folder)
    folder = _take(choose_mirror(alpine), alpine, worlds, engine, progress)
    write_atomically(pointer, f"{folder.name}\n".encode())
    return Snapshot(folder)


def _take(
    mirror: Mirror,
    alpine: Alpine,
    worlds: Mapping[str, World],
    engine: Engine,
    progress: Progress,
) -> Path:
    indexes = {}
    for repository in alpine.repositories:
        path = f"{folder_of(alpine, repository)}/{INDEX}"
        indexes[path] = mirror.read(path)
        verify_index(indexes[path], mirror.keys, f"{mirror.location}/{path}")
    asked = json.dumps([mirror.location, worlds], default=dict)
    name = hashlib.sha256(asked.encode() + b"".join(indexes.values())).hexdigest()[:16]
    place = CACHE / "snapshots" / name
    if place.is_dir():
        return place
    with folder_for(place) as folder:
        snapshot = Snapshot(folder)
        shutil.copytree(mirror.keys, snapshot.keys)
        known: dict[tuple[str, str], Package] = {}
        for path, data in indexes.items():
            write_atomically(snapshot.mirror / path, data)
            for package in read_index(data, path.rpartition("/")[0]):
                known.setdefault((package.name, package.version), package)

        static = next((package for package in known.values() if package.name == STATIC), None)
        if static is None:
            raise UserError(f"{mirror.location} has no {STATIC} for {alpine.branch}")
        archive.fetch(mirror, [static], lambda size: None)
        root = static_root(static, archive.place_of(static))
        apk = Apk(engine, root, snapshot.mirror, snapshot.keys, alpine)
        needed = {
            world: sorted(
                (known[found] for found in apk.resolve(names, source)), key=lambda p: p.name
            )
            for world, (source, names) in worlds.items()
        }
        _bring(mirror, {package for some in needed.values() for package in some}, progress)
        _link(snapshot.mirror, (package for some in needed.values() for package in some))
        needed[STATIC] = [static]
        record = {
            "source": mirror.location,
            "worlds": {world: [asdict(p) for p in some] for world, some in needed.items()},
        }
        write_atomically(folder / "snapshot.json", json.dumps(record, indent=1).encode())
    return place


def _bring(mirror: Mirror, packages: set[Package], progress: Progress) -> None:
    total, come = sum(package.size for package in packages), 0

    def count(size: int) -> None:
        nonlocal come
        come += size
        progress(come, total)

    archive.fetch(mirror, sorted(packages, key=lambda p: -p.size), count)


def _link(mirror: Path, packages: Iterable[Package]) -> None:
    for package in packages:
        place = mirror / package.path
        if not place.exists():
            place.hardlink_to(archive.place_of(package))
