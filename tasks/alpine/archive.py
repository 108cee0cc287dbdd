"""Every package that was ever fetched, by the SHA-256 of its file: for all mirrors and releases.

It is laid out so that any web server can serve it: `packages/SHA256.apk`. A package that its mirror
has dropped since still comes from there.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tasks.alpine.apk_format import Package, verify_package
from tasks.alpine.lock import LockedPackage
from tasks.alpine.mirror import CountBytes, Mirror, folder_of
from tasks.core.config import Alpine
from tasks.core.errors import UserError
from tasks.core.files import write_atomically
from tasks.core.paths import CACHE

DOWNLOADS_AT_ONCE = 6
FOLDER = CACHE / "packages"
CHECKSUMS = CACHE / "checksums"  # which file has the checksum that an index names
DOWNLOADS = CACHE / "downloads"

Item = TypeVar("Item")
Done = TypeVar("Done")


def place_of(sha256: str) -> Path:
    """Where the archive has a package, or would have it."""
    return FOLDER / f"{sha256}.apk"


def is_here(sha256: str) -> bool:
    """Whether the archive has a package; it was verified before its file got its name."""
    return place_of(sha256).is_file()


def fetch_indexed(mirror: Mirror, wanted: Iterable[Package], count: CountBytes) -> dict[str, str]:
    """Bring what isn't here of packages that a verified index names.

    Returns by checksum the SHA-256 of each. Raises UserError where the mirror hasn't got one, or it
    is not what the index says.
    """

    def fetch_one(package: Package) -> tuple[str, str]:
        note = CHECKSUMS / base64.b64decode(package.checksum.removeprefix("Q1")).hex()
        if note.is_file() and is_here(sha256 := note.read_text()):
            count(package.size)
            return package.checksum, sha256
        download = DOWNLOADS / f"{note.name}.apk"
        mirror.download(package.path, download, count)
        data = download.read_bytes()
        download.unlink()  # where it is wrong, going on with it makes no sense
        verify_package(data, package, f"{mirror.location}/{package.path}")
        sha256 = hashlib.sha256(data).hexdigest()
        write_atomically(place_of(sha256), data)
        write_atomically(note, sha256.encode())
        return package.checksum, sha256

    return dict(_side_by_side(fetch_one, wanted))


def fetch_locked(
    alpine: Alpine, mirror: Callable[[], Mirror], wanted: Iterable[LockedPackage], count: CountBytes
) -> None:
    """Bring what isn't here of locked packages, from the archive URL or the mirror.

    Raises UserError where neither has one, or it is another one.
    """
    missing = [package for package in wanted if not is_here(package.sha256)]
    source = mirror() if missing else None

    def fetch_one(package: LockedPackage) -> None:
        assert source is not None
        path = f"{folder_of(alpine, package.repository)}/{package.file_name}"
        problems = []
        places = [(source, path)]
        if alpine.archive:
            archive = Mirror(alpine.archive, source.keys, alpine.archive)
            places.append((archive, f"packages/{package.sha256}.apk"))
        for place, name in places:
            download = DOWNLOADS / f"{package.sha256}.apk"
            try:
                place.download(name, download, count)
            except UserError as error:
                problems.append(str(error))
                continue
            data = download.read_bytes()
            download.unlink()
            if hashlib.sha256(data).hexdigest() == package.sha256:
                write_atomically(place_of(package.sha256), data)
                return
            problems.append(f"{place.location}/{name}: is not the package that apk.lock names")
        raise UserError("\n".join([*problems, HINT]))

    _side_by_side(fetch_one, missing)


HINT = "if it was replaced there: ./inv lock --upgrade takes what the mirror has now"


def _side_by_side(work: Callable[[Item], Done], items: Iterable[Item]) -> list[Done]:
    """Do `work` on all items, several at once; the results in order, or the first error."""
    pool = ThreadPoolExecutor(DOWNLOADS_AT_ONCE)
    try:
        return [done.result() for done in [pool.submit(work, item) for item in items]]
    finally:
        pool.shutdown(cancel_futures=True)
