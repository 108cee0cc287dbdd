"""FAT file systems: the volume with a node's own files, and others that a machine can mount."""

from __future__ import annotations

import tempfile
from pathlib import Path

from builder.core.errors import UserError
from builder.core.paths import LOGS
from builder.disk.layout import NODE_MIB
from builder.engines.engine import SCRIPT_ARGV, Engine, Job

MIB = 1 << 20
_SCRIPT = Path(__file__).with_suffix(".sh")


def volume(folder: Path, label: str, root: Path, engine: Engine) -> bytes:
    """The bytes of a volume with the files of `folder`, as large as the disk's own for it.

    Nothing of it stays in the cache: there are private keys in it.
    """
    files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder}: there are no files of a node", "inv node.new makes them")
    if (size := sum(path.stat().st_size for path in files)) > (NODE_MIB - 1) * MIB:
        raise UserError(f"{folder}: {size // MIB} MiB don't fit into a volume of {NODE_MIB} MiB")
    with tempfile.TemporaryDirectory() as scratch:
        env = {"MIB": str(NODE_MIB), "LABEL": label, "BITS": "16"}
        _run(folder, Path(scratch), env, root, engine)
        return (Path(scratch) / "volume").read_bytes()


def write_fat(folder: Path, label: str, image: Path, root: Path, engine: Engine) -> None:
    """Write a file system with all that is in `folder`, and a little room, to the file `image`."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    # FAT32 has 65525 clusters at least; each file may waste one, and the tables take a hundredth.
    mib = max(64, size * 51 // 50 // MIB + 32)
    with tempfile.TemporaryDirectory(dir=image.parent) as scratch:
        env = {"MIB": str(mib), "LABEL": label, "BITS": "32"}
        _run(folder, Path(scratch), env, root, engine)
        (Path(scratch) / "volume").rename(image)


def _run(folder: Path, out: Path, env: dict[str, str], root: Path, engine: Engine) -> None:
    inputs = {"script": _SCRIPT, "files": folder}
    engine.run(Job("volume", root, SCRIPT_ARGV, out, inputs, env), LOGS / "volume.log")
