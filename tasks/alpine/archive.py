"""Every package that was ever fetched, by its checksum: for all mirrors and releases together."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tasks.alpine.apk_format import Package, verify_package
from tasks.alpine.mirror import Mirror
from tasks.core.files import write_atomically
from tasks.core.paths import CACHE

DOWNLOADS_AT_ONCE = 6
FOLDER = CACHE / "packages"


def place_of(package: Package) -> Path:
    """Where the archive has a package, or would have it."""
    checksum = base64.b64decode(package.checksum.removeprefix("Q1")).hex()
    return FOLDER / f"{checksum}-{package.file_name}"


def is_here(package: Package) -> bool:
    """Whether the archive has it; what is in the file was verified before it got its name."""
    place = place_of(package)
    return place.exists() and place.stat().st_size == package.size


def fetch(mirror: Mirror, wanted: Iterable[Package], progress: Callable[[int], None]) -> None:
    """Bring the packages that aren't here, several at once; `progress` is told bytes as they come.

    Raises UserError where the mirror hasn't got one, or it is not what the index says.
    """

    def fetch_one(package: Package) -> None:
        if not is_here(package):
            data = mirror.read(package.path)
            verify_package(data, package, f"{mirror.location}/{package.path}")
            write_atomically(place_of(package), data)
        progress(package.size)

    pool = ThreadPoolExecutor(DOWNLOADS_AT_ONCE)
    try:
        for done in [pool.submit(fetch_one, package) for package in wanted]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)
