"""Every package that was ever fetched, by the SHA-256 of its file: for all mirrors and releases.

It is laid out so that any web server can serve it: `packages/SHA256.apk`. A package that its mirror
has dropped since still comes from there.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from builder.alpine.apk_format import Package, verify_package, verify_signed
from builder.alpine.lock import LockedPackage
from builder.alpine.mirror import ALPINE_KEYS, CountBytes, Mirror, Repository, repositories_of
from builder.core.config import Alpine
from builder.core.errors import UserError
from builder.core.files import only_one, write_atomically
from builder.core.paths import CACHE

DOWNLOADS_AT_ONCE = 6
PACKAGES = CACHE / "packages"
CHECKSUMS = CACHE / "checksums"  # which file has the checksum that an index names
DOWNLOADS = CACHE / "downloads"

Transferred = Callable[[int, int], None]  # bytes that came, bytes in all

Item = TypeVar("Item")
Done = TypeVar("Done")


def place_of(sha256: str) -> Path:
    """Where the archive has a package, or would have it."""
    return PACKAGES / f"{sha256}.apk"


def is_here(sha256: str) -> bool:
    """Whether the archive has a package; it was verified before its file got its name."""
    return place_of(sha256).is_file()


def _note_of(package: Package) -> Path:
    return CHECKSUMS / base64.b64decode(package.checksum.removeprefix("Q1")).hex()


def has_indexed(package: Package, keys: Path) -> bool:
    """Whether the archive has a package that an index names, signed by one of `keys`.

    The index doesn't say who signed it: after a change of keys, the same package is signed anew.
    """
    note = _note_of(package)
    if not note.is_file() or not is_here(sha256 := note.read_text()):
        return False
    try:
        verify_signed(place_of(sha256).read_bytes(), keys, package.file_name)
    except UserError:
        return False
    return True


def _counting(transferred: Transferred, total: int) -> CountBytes:
    """Tells `transferred` the sum of the bytes that all downloads together count."""
    done = 0
    one_at_a_time = threading.Lock()

    def count(size: int) -> None:
        nonlocal done
        with one_at_a_time:
            done += size
            transferred(done, total)

    return count


def fetch_indexed(
    wanted: Sequence[tuple[Package, Repository]], transferred: Transferred
) -> dict[str, str]:
    """Bring what isn't here of packages that verified indexes name, the largest first.

    Returns by checksum the SHA-256 of each. Raises UserError where the mirror hasn't got one, or it
    is not what the index says.
    """

    count = _counting(transferred, sum(package.size for package, _ in wanted))

    def fetch_one(item: tuple[Package, Repository]) -> tuple[str, str]:
        package, mirror = item[0], item[1].mirror
        note = _note_of(package)
        with only_one(note.name):
            if has_indexed(package, mirror.keys):
                count(package.size)
                return package.checksum, note.read_text()
            data = _download(mirror, package.path, note.name, count)
            verify_package(data, package, what := f"{mirror.name}/{package.path}")
            verify_signed(data, mirror.keys, what)
            sha256 = hashlib.sha256(data).hexdigest()
            write_atomically(place_of(sha256), data)
            write_atomically(note, sha256.encode())
        return package.checksum, sha256

    return dict(_side_by_side(fetch_one, sorted(wanted, key=lambda item: -item[0].size)))


def fetch_locked(
    alpine: Alpine,
    mirror: Callable[[], Mirror],
    wanted: Iterable[LockedPackage],
    transferred: Transferred,
) -> None:
    """Bring what isn't here of locked packages, from the archive URL or the mirror.

    Raises UserError where neither has one, or it is another one.
    """
    missing = [package for package in wanted if not is_here(package.sha256)]
    repositories = repositories_of(alpine, mirror()) if missing else {}
    count = _counting(transferred, sum(package.size for package in missing))

    def fetch_one(package: LockedPackage) -> None:
        sources = []
        if repository := repositories.get(package.repository):
            sources = [(repository.mirror, f"{repository.folder}/{package.file_name}")]
        if alpine.archive:
            archive = Mirror(alpine.archive, ALPINE_KEYS, "the archive")
            sources.append((archive, f"packages/{package.sha256}.apk"))
        with only_one(package.sha256):
            if not is_here(package.sha256):
                if not sources:
                    raise UserError(
                        f"{package.name} of the lock is from {package.repository}, which is no "
                        "repository in image.toml",
                        "name it there, or run: ./inv lock --upgrade",
                    )
                data = _first_good(sources, package.sha256, count)
                write_atomically(place_of(package.sha256), data)

    _side_by_side(fetch_one, missing)


def _first_good(sources: Iterable[tuple[Mirror, str]], sha256: str, count: CountBytes) -> bytes:
    problems = []
    for mirror, path in sources:
        try:
            data = _download(mirror, path, sha256, count)
        except UserError as error:
            problems.append(str(error))
            continue
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
        problems.append(f"{mirror.name}/{path}: is not the package that is locked")
    hint = "if it was replaced there: ./inv lock --upgrade takes what the mirror has now"
    raise UserError("\n".join([*problems, hint]))


def _download(mirror: Mirror, path: str, name: str, count: CountBytes) -> bytes:
    """Bring a file, going on with what an earlier run left of it."""
    target = DOWNLOADS / name
    mirror.download(path, target, count)
    data = target.read_bytes()
    target.unlink()  # where it is wrong, going on with it makes no sense
    return data


def _side_by_side(work: Callable[[Item], Done], items: Iterable[Item]) -> list[Done]:
    """Do `work` on all items, several at once; the results in order, or the first error."""
    pool = ThreadPoolExecutor(DOWNLOADS_AT_ONCE)
    try:
        return [done.result() for done in [pool.submit(work, item) for item in items]]
    finally:
        pool.shutdown(cancel_futures=True)
