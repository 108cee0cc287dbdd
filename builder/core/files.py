"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from builder.core.errors import UserError
from builder.core.paths import CACHE

ZEROS = bytes(1 << 20)
DAY_S = 24 * 3600
ABANDONED_AFTER_S = DAY_S
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the disk name `path`: writing to an open file raises them without a name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in OF_THE_DISK:
            error.filename = str(path)
        raise


def read_text(path: Path) -> str:
    """A text file that people edit. Raises UserError where it is none."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text: {error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file that people edit; nothing where there is none. Raises UserError."""
    import tomli

    try:
        return tomli.loads(read_text(path)) if path.exists() else {}
    except tomli.TOMLDecodeError as error:
        raise UserError(f"{path}: is not valid TOML: {error}") from None


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that it is there whole or not at all. At no time others may read more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    try:
        with naming(path), os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).chmod(mode)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def gzipped(data: bytes, level: int) -> bytes:
    """`data` as one gzip stream without a time, the same by every Python.

    The module gzip writes another head by each.
    """
    engine = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return engine.compress(data) + engine.flush()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(len(ZEROS)):
            digest.update(data)
    return digest.hexdigest()


def write_private(path: Path, data: bytes) -> None:
    """Write a new file that only its owner can read. Raises FileExistsError if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with naming(path), os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except BaseException:  # half a key would keep the next one from being made
        path.unlink(missing_ok=True)
        raise


@contextmanager
def only_one(name: str) -> Iterator[None]:
    """Let one process (and one thread) of this user into the block of that name at a time.

    The lock goes with the process that holds it, however that ends.
    """
    path = CACHE / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def in_use(path: Path, what: str, shared: bool = False) -> Iterator[None]:
    """Hold the lock file `place`, alone or `shared`. Raises UserError with `what` if others do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(what) from None
        yield


@contextmanager
def folder_for(target: Path) -> Iterator[Path]:
    """A scratch folder that becomes `place` when the block ends well, and is gone otherwise.

    Where `place` is there already, made by another process meanwhile, that one stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".partial-"))
    try:
        scratch.chmod(0o755)
        with naming(target):
            yield scratch
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        remove_tree(scratch)


def _sweep(folder: Path) -> None:
    """Remove what a process left that had no time to do so itself: it was killed, long ago."""
    for path in folder.glob(".partial-*"):
        with suppress(FileNotFoundError):  # another process ends well meanwhile
            if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                remove_tree(path)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all in it, also folders that nobody may write to."""

    def make_writable(_function: object, path: str, _error: object) -> None:
        Path(path).parent.chmod(0o700)
        if Path(path).is_dir() and not Path(path).is_symlink():
            Path(path).chmod(0o700)
            shutil.rmtree(path)
        else:
            Path(path).unlink()

    if folder.exists():
        shutil.rmtree(folder, onerror=make_writable)


def copy_sparse_to(writer: IO[bytes], reader: IO[bytes]) -> None:
    """Write all that `reader` has to a fresh file; long runs of zeros take no room."""
    while data := reader.read(len(ZEROS)):
        write_sparse(writer, data)
    writer.truncate()


def write_sparse(writer: IO[bytes], data: bytes) -> None:
    """Write to a fresh file, which is to be truncated in the end; zeros take no room."""
    if data == bytes(len(data)):
        writer.seek(len(data), os.SEEK_CUR)
    else:
        writer.write(data)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file; long runs of zeros take no room. Half a copy is removed."""
    try:
        with naming(target), source.open("rb") as reader, target.open("wb") as writer:
            copy_sparse_to(writer, reader)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def linked(source: str | Path, target: str | Path) -> None:
    """Give a file that never changes a second name; a copy where there are no hard links."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
