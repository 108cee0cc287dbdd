"""The volume with a node's own files: a FAT file system with the label that nodes look for."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tasks.core.errors import UserError
from tasks.core.paths import LOGS
from tasks.disk.layout import NODE_MIB
from tasks.engines.engine import Engine, Job

_SCRIPT = r"""
truncate -s "${MIB}M" out/volume
mkfs.vfat -F 16 -s 1 -n "$LABEL" out/volume >/dev/null
MTOOLS_SKIP_CHECK=1 mcopy -Q -i out/volume in/files/* ::/
"""


def volume(folder: Path, label: str, root: Path, engine: Engine) -> bytes:
    """The bytes of a volume with the files of `folder`, as large as the disk's own for it.

    Nothing of it stays in the cache: there are private keys in it.
    """
    files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder}: there are no files of a node; inv node.new makes them")
    if (size := sum(path.stat().st_size for path in files)) > (NODE_MIB - 1) << 20:
        raise UserError(f"{folder}: {size >> 20} MiB don't fit into a volume of {NODE_MIB} MiB")
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(
            name="volume",
            root=root,
            argv=("/bin/sh", "-euc", _SCRIPT),
            output=Path(scratch),
            inputs={"files": folder},
            env={"MIB": str(NODE_MIB), "LABEL": label},
        )
        engine.run(job, LOGS / "volume.log")
        return (Path(scratch) / "volume").read_bytes()
