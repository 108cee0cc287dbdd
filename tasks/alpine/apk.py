"""Runs the real apk: to see which packages a world needs, and to install the container's root."""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.alpine.apk_format import Package, verify_package
from tasks.core.commands import CommandError
from tasks.core.config import Alpine
from tasks.core.errors import UserError
from tasks.core.files import folder_for
from tasks.core.paths import CACHE, LOGS
from tasks.engines.engine import MOUNT_POINTS, Engine, Job

STATIC = "apk-tools-static"
PROGRAM = "/sbin/apk.static"


def static_root(package: Package, archived: Path) -> Path:
    """A root with the first apk, out of the package apk-tools-static: it needs nothing else."""
    place = CACHE / "apk" / archived.stem
    if not place.is_dir():
        files = verify_package(archived.read_bytes(), package, str(archived))
        with folder_for(place) as root:
            for name in MOUNT_POINTS:
                (root / name).mkdir()
            _unpack(files, root)
    return place


def _unpack(tar: bytes, root: Path) -> None:
    """Unpack the files of a verified package, as the user who runs this."""
    with tarfile.open(fileobj=io.BytesIO(tar), ignore_zeros=True) as archive:
        for member in archive:
            place = root / member.name
            place.parent.mkdir(parents=True, exist_ok=True)
            if member.isdir():
                place.mkdir(exist_ok=True)
            elif member.issym():
                place.symlink_to(member.linkname)
            elif reader := archive.extractfile(member):
                place.write_bytes(reader.read())
                place.chmod(member.mode)


@dataclass(frozen=True)
class Apk:
    """apk in a container, with `mirror`, a local copy of one, and the keys it is trusted by."""

    engine: Engine
    root: Path  # where apk itself lies
    mirror: Path
    keys: Path
    alpine: Alpine

    def resolve(self, world: Sequence[str], source: str) -> list[tuple[str, str]]:
        """Name and version of every package that `world`, which is from `source`, needs.

        Raises UserError where the world can't be had.
        """
        with tempfile.TemporaryDirectory() as scratch:
            self.add([], Path(scratch), "the empty database")
            output = self.add(["--simulate", *world], Path(scratch), source)
        # "( 1/51) Installing musl (1.2.5-r23)"
        return re.findall(r"^\(\s*\d+/\d+\) Installing (\S+) \((\S+)\)$", output, re.MULTILINE)

    def add(self, words: Sequence[str], output: Path, source: str) -> str:
        """Run `apk add` on the folder `root` in `output`; return what it printed."""
        job = Job(
            f"apk add for {source}",
            self.root,
            (PROGRAM, "--root", "out/root", *options(self.alpine), "add", "--initdb", *words),
            output,
            {"mirror": self.mirror, "keys": self.keys},
        )
        (output / "root").mkdir(exist_ok=True)
        try:
            return self.engine.run(
                job, LOGS / f"apk-{source.replace('/', '-').replace(' ', '-')}.log"
            )
        except CommandError as error:
            raise explained(error, source) from None


def options(alpine: Alpine) -> tuple[str, ...]:
    """What every call of apk in a job has in common: packages from its inputs only."""
    repositories = (f"/srv/in/mirror/{alpine.branch}/{name}" for name in alpine.repositories)
    return (
        *("--arch", alpine.arch, "--keys-dir", "/srv/in/keys", "--repositories-file", "/dev/null"),
        *("--no-network", "--no-cache", "--no-progress"),
        *(word for path in repositories for word in ("--repository", path)),
    )


def explained(error: CommandError, source: str) -> UserError:
    """What apk's failure means, where that is known; `source` is the file that names the world."""
    missing = re.findall(r"^\s+(\S+) \(no such package\)", error.output, re.MULTILINE)
    if "UNTRUSTED" in error.output:
        return UserError(f"{source}: a package or index is signed by no trusted key:\n{error}")
    if missing:
        names = ", ".join(missing)
        return UserError(
            f"{source}: the mirror has no package {names}; correct the name there, "
            "or refresh the indexes: ./inv fetch --refresh"
        )
    return error
