"""The archive of a site's configuration: a tar.gz, its program and its version with fixed names.

All of it is files and folders, root's own, with the time 0: the same bytes wherever it is made.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path

from updater.errors import Refused

APPLY = "apply"
VERSION_FILE = "version"
SITE_SIZE_MAX = 16 << 20  # of the archive
UNPACKED_MAX = 64 << 20
FILES_MAX = 10_000


def pack(paths: Iterable[tuple[str, Path]]) -> bytes:
    """The tar, not compressed yet, of files and folders by the names that they get in it."""
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, path in paths:
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644
            if path.is_dir():
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                data = path.read_bytes()
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def unpack(archive: bytes, tree: Path) -> None:
    """Unpack a configuration into the folder `tree`, which is emptied. Raises Refused."""
    import shutil
    import tarfile  # slow to come, and `belay status` needs none of it

    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True, mode=0o700)
    total = count = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            for member in tar:
                total, count = total + member.size, count + 1
                if total > UNPACKED_MAX or count > FILES_MAX:
                    raise Refused("the site is larger than a configuration may be")
                tar.extract(member, tree, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise Refused(f"the site can't be unpacked: {error}") from None
    if not os.access(tree / APPLY, os.X_OK):
        raise Refused(f"the site has no program `{APPLY}`")


def version_of(archive: bytes) -> str:
    """The version that a configuration says of itself; ? where it says none."""
    import tarfile

    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            file = tar.extractfile(VERSION_FILE)
            return file.read(64).decode(errors="replace").strip() if file else "?"
    except (tarfile.TarError, OSError, EOFError, KeyError):
        return "?"
