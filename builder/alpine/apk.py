"""Runs the real apk: to see which packages a world needs, and to install the container's root."""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from builder.alpine.apk_format import bytes_of, installed_record, lines_of, package_files
from builder.alpine.kernel import MICROCODE_PACKAGES
from builder.core.commands import CommandError
from builder.core.errors import UserError
from builder.core.files import folder_for
from builder.core.paths import CACHE, LOGS
from builder.engines.engine import MOUNT_POINTS, Engine, Job

STATIC = "apk-tools-static"
APK = "/sbin/apk.static"
Version = tuple[str, str]  # name and version of a package


class World(NamedTuple):
    """Packages that are asked for: in which file, their names, and for which architecture."""

    source: str
    names: tuple[str, ...]
    arch: str


_PLAN = re.compile(
    # "( 1/51) Installing musl (1.2.5-r23)", "(2/3) Upgrading kmod@tag (34.2-r1 -> 34.3-r0)"
    r"^\(\s*\d+/\d+\) (?P<action>\w+) (?P<name>[^\s@]+)(?:@\S+)? "
    r"\((?:\S+ -> )?(?P<version>[^)]+)\)$",
    re.MULTILINE,
)

# What can't be had beside a word of the world; what wants it all the same.
_BROKEN = re.compile(
    r"^ +(\S+):\n +breaks: world\[(\S+)\]\n(?: +satisfies: (?!world)([^\[\s]+)\[)?",
    re.MULTILINE,
)

_MASKED = re.compile(r"^ +(\S+)-[^-\n]+-r\d+:\n +masked in: (@\S+)", re.MULTILINE)


def static_root(archived: Path) -> Path:
    """A root with the first apk, out of the verified package apk-tools-static."""
    folder = CACHE / "apk" / archived.stem
    if not folder.is_dir():
        files = package_files(archived.read_bytes())
        with folder_for(folder) as root:
            for name in MOUNT_POINTS:
                (root / name).mkdir()
            _unpack(files, root)
    return folder


def _unpack(tar: bytes, root: Path) -> None:
    """Unpack the files of a verified package, as the user who runs this."""
    with tarfile.open(fileobj=io.BytesIO(tar), ignore_zeros=True) as archive:
        for member in archive:
            path = root / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if member.isdir():
                path.mkdir(exist_ok=True)
            elif member.issym():
                path.symlink_to(member.linkname)
            elif reader := archive.extractfile(member):
                path.write_bytes(reader.read())
                path.chmod(member.mode)


@dataclass(frozen=True)
class Apk:
    """apk in a container. `root` is where apk itself lies, `keys` what it trusts."""

    engine: Engine
    root: Path
    keys: Path
    kernel: str

    def resolve(
        self,
        mirror: Path,
        world: World,
        kept: Iterable[Path] = (),
        upgraded: Sequence[str] = (),
    ) -> list[Version]:
        """All packages that a world needs, sorted.

        `mirror` is a folder with indexes, and a file `repositories` that names them. Packages in
        `kept` stay as they are, as far as that is possible, but for those named in `upgraded`.
        Raises UserError where the world can't be had.
        """
        records = [installed_record(path.read_bytes()) for path in kept]
        found = {}
        for record in records:
            fields = dict(line.split(":", 1) for line in lines_of(record))
            found[fields["P"]] = fields["V"]
        words = ["--repositories-file", "/srv/in/mirror/repositories", "--simulate"]
        if upgraded:
            words += ["--upgrade", *upgraded]
        with tempfile.TemporaryDirectory() as folder:
            _write_database(Path(folder) / "root", records, world.names)
            output = self._add(words, Path(folder), world, {"mirror": mirror})
        for step in _PLAN.finditer(output):
            if step["action"] == "Purging":
                found.pop(step["name"], None)
            else:
                found[step["name"]] = step["version"]
        return sorted(found.items())

    def install(self, packages: Path, world: World, output: Path) -> None:
        """Install all packages of a folder into `output/root`."""
        files = [f"/srv/in/packages/{path.name}" for path in sorted(packages.glob("*.apk"))]
        # In memory apk thinks of a diskless system, on which such packages would be lost.
        self._add(
            ["--initdb", "--force-non-repository", *files], output, world, {"packages": packages}
        )
        # apk took note of files; the world of the root is of names.
        (output / "root/etc/apk/world").write_text(world_text(world.names))

    def _add(
        self, words: Sequence[str], output: Path, world: World, inputs: dict[str, Path]
    ) -> str:
        """Run `apk add` on the folder `root` in `output`; return what it printed."""
        source = world.source
        command = (APK, "--root", "out/root", *options(world.arch), "add", *words)
        inputs = {"keys": self.keys, **inputs}
        (output / "root").mkdir(exist_ok=True)
        job = Job(f"apk add for {source}", self.root, command, output, inputs)
        try:
            return self.engine.run(job, LOGS / f"apk-{source.replace('/', '-')}.log")
        except CommandError as error:
            raise explained(error, source, self.kernel, world.arch) from None


def _write_database(root: Path, records: Iterable[str], world: Iterable[str]) -> None:
    """Make apk believe that packages are installed, and that `world` is wanted."""
    contents = {"installed": "".join(records), "scripts.tar.gz": "", "triggers": ""}
    for name, text in contents.items():
        (root / "lib/apk/db").mkdir(parents=True, exist_ok=True)
        (root / "lib/apk/db" / name).write_bytes(bytes_of(text))
    (root / "etc/apk").mkdir(parents=True)
    (root / "etc/apk/world").write_text(world_text(world))


def world_text(names: Iterable[str]) -> str:
    """The file `etc/apk/world` of a root in which these packages were asked for."""
    return "".join(f"{name}\n" for name in sorted(names))


def options(arch: str) -> tuple[str, ...]:
    """What every call of apk in a job has in common: packages from its inputs only."""
    return (
        *("--arch", arch, "--keys-dir", "/srv/in/keys", "--repositories-file", "/dev/null"),
        *("--no-network", "--no-cache", "--no-progress"),
    )


def explained(error: CommandError, source: str, kernel: str = "", arch: str = "") -> UserError:
    """What apk's failure means, where that is known; `source` is the file that names the world.

    The package of the `kernel` is in no world: image.toml names it.
    """
    missing = re.findall(r"^\s+(\S+) \(no such package\)", error.output, re.MULTILINE)
    if "UNTRUSTED" in error.output:
        return UserError(f"{source}: a package or index is signed by no trusted key:\n{error}")
    if f"linux-{kernel}" in missing:
        return UserError(
            f'kernel = "{kernel}" in [alpine] of image.toml: the mirror has no package '
            f"linux-{kernel}",
            "the sample mirror has linux-virt alone: for other kernels, let "
            "mirror in [alpine] be one of Alpine's",
        )
    if ucode := [name for name in missing if name in MICROCODE_PACKAGES]:
        words = " and ".join(f"!{name}" for name in ucode)
        return UserError(
            f'kernel = "{kernel}" in [alpine] of image.toml wants microcode: the mirror has no '
            f"package {', '.join(ucode)}",
            f"write {words} into rootfs/world to do without",
        )
    if missing:
        names = ", ".join(missing)
        return UserError(
            f"{source}: the mirror has no package {names}{f' for {arch}' if arch else ''}",
            "correct the name there, or look at the mirror again: ./inv lock --upgrade",
        )
    if tag := re.search(r"world dependency '(\S+)@(\S+)' does not exist", error.output):
        return UserError(
            f"{source}: {tag[1]}@{tag[2]}: no repository has the tag {tag[2]}",
            "give it to one of repositories in [alpine] of image.toml",
        )
    if masked := _MASKED.search(error.output):
        name, its_tag = masked.groups()
        return UserError(
            f"{source}: {name} is only in a repository with a tag: ask for {name}{its_tag}"
        )
    if broken := _BROKEN.findall(error.output):
        return UserError(
            "".join(
                f"{source}: {wish} is asked for, and the mirror has {package}"
                f"{f', which {needs} needs' if needs else ''}\n"
                for package, wish, needs in broken
            )
            + f"change {source}, or look at the mirror again: ./inv lock --upgrade"
        )
    return error
