"""The local copy of what was fetched from a mirror: its indexes, and the packages used so far.

It is laid out like the mirror, so that apk reads it as one. Everything in it was verified before it
got its name, and apk verifies it once more whenever it installs.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tasks.alpine.apk_format import Package, read_index, verify_index, verify_package
from tasks.alpine.mirror import Mirror, index_path
from tasks.core.config import Alpine
from tasks.core.errors import UserError
from tasks.core.paths import CACHE

DOWNLOADS_AT_ONCE = 6


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).chmod(0o644)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Archive:
    """What is here of `mirror` for one release of Alpine."""

    mirror: Mirror
    alpine: Alpine

    @cached_property
    def folder(self) -> Path:
        """The local copy: one for each mirror, shared by all configurations and checkouts."""
        name = hashlib.sha256(self.mirror.location.encode()).hexdigest()[:16]
        return CACHE / "mirror" / name

    def fetch_indexes(self) -> None:
        """Bring the index of each repository, and keep it. Nothing is kept unless all are good."""
        good = []
        for repository in self.alpine.repositories:
            path = index_path(self.alpine, repository)
            data = self.mirror.read(path)
            verify_index(data, self.mirror.keys, f"{self.mirror.location}/{path}")
            good.append((self.folder / path, data))
        for place, data in good:
            write_atomically(place, data)

    @cached_property
    def packages(self) -> dict[tuple[str, str], tuple[Package, str]]:
        """By name and version: a package of the kept indexes, and its path on the mirror."""
        found: dict[tuple[str, str], tuple[Package, str]] = {}
        for repository in self.alpine.repositories:
            path = index_path(self.alpine, repository)
            folder = path.rpartition("/")[0]
            for package in read_index((self.folder / path).read_bytes()):
                found.setdefault(
                    (package.name, package.version), (package, f"{folder}/{package.file_name}")
                )
        return found

    def newest(self, name: str) -> Package:
        """The package `name`: an index holds one version of each."""
        for package, _ in self.packages.values():
            if package.name == name:
                return package
        raise UserError(f"{self.mirror.location} has no package {name} for {self.alpine.branch}")

    def fetch_packages(
        self, wanted: Iterable[Package], progress: Callable[[int], None] = lambda size: None
    ) -> None:
        """Bring those packages that aren't here yet; `progress` is told the bytes of each."""

        def fetch(package: Package) -> None:
            self.fetch_package(package)
            progress(package.size)

        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            for done in [pool.submit(fetch, package) for package in wanted]:
                try:
                    done.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise

    def fetch_package(self, package: Package) -> Path:
        """The local file of a package, brought and verified if it isn't here yet."""
        _, path = self.packages[package.name, package.version]
        place = self.folder / path
        if not self.is_here(package, place):
            data = self.mirror.read(path)
            verify_package(data, package, f"{self.mirror.location}/{path}")
            write_atomically(place, data)
        return place

    @staticmethod
    def is_here(package: Package, place: Path) -> bool:
        """Whether the file is there in full; what is in it was verified when it was written."""
        try:
            return place.stat().st_size == package.size
        except FileNotFoundError:
            return False
