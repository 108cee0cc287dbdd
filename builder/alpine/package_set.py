"""The locked packages as folders that jobs can read: one a world, with links to the archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.alpine import archive
from builder.alpine.apk import STATIC, Apk, static_root
from builder.alpine.lock import Lock, LockedPackage, digest
from builder.alpine.mirror import Mirror, mirror_of, trusted_keys
from builder.core.cache import mark_used
from builder.core.config import Alpine
from builder.core.files import folder_for, linked
from builder.core.paths import CACHE
from builder.engines.engine import Engine


@dataclass(frozen=True)
class PackageSet:
    """All packages of a lock, here."""

    lock: Lock
    alpine: Alpine
    keys: Path

    def folder(self, world: str) -> Path:
        """A folder with the packages of a world under their own names; it never changes."""
        return self._folder(self.lock.packages[world])

    def folder_beyond(self, world: str, base: str) -> Path:
        """A folder with those packages of a world that another one hasn't got."""
        below = set(self.lock.packages[base])
        return self._folder([p for p in self.lock.packages[world] if p not in below])

    @staticmethod
    def _folder(packages: Sequence[LockedPackage]) -> Path:
        cached = CACHE / "worlds" / digest(packages)[:16]
        if not cached.is_dir():
            with folder_for(cached) as folder:
                for package in packages:
                    linked(archive.place_of(package.sha256), folder / package.file_name)
        mark_used(cached)
        return cached

    def apk(self, engine: Engine) -> Apk:
        """The first apk."""
        root = static_root(archive.place_of(self.lock.packages[STATIC][0].sha256))
        return Apk(engine, root, self.keys, self.alpine.kernel)


def package_set(lock: Lock, alpine: Alpine, transferred: archive.Transferred) -> PackageSet:
    """Bring what isn't here of a lock's packages. Raises UserError where that can't be had."""
    source = alpine.mirror if alpine.mirror.startswith("http") else lock.source

    def mirror() -> Mirror:
        return mirror_of(alpine, source)

    packages = {package for some in lock.packages.values() for package in some}
    archive.fetch_locked(alpine, mirror, sorted(packages), transferred)
    for package in packages:
        mark_used(archive.place_of(package.sha256))
    return PackageSet(lock, alpine, trusted_keys(alpine, mirror()))
