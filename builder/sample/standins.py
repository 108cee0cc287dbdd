"""Stand-in packages: the tools that the wheel's system lacks, under the names Alpine gives them.

They are Debian's binary packages, unchanged but for where they look for their libraries: Debian's C
library goes with them into a folder of its own, beside Alpine's musl. Their descriptions say that
they are stand-ins.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.alpine.apk_database import read_database
from builder.alpine.apk_writer import Draft, Entry, draft
from builder.core.arch import Arch
from builder.core.commands import run
from builder.core.errors import UserError
from builder.core.paths import LOGS
from builder.sample.wheel import System

LIBRARIES = "usr/lib/belay-glibc"
# mtools converts file names by iconv, which finds its tables at the place compiled into it.
CONVERTER_TABLE = b"""\
module IBM850// INTERNAL IBM850 1
module INTERNAL IBM850// IBM850 1
alias CP850// IBM850//
alias 850// IBM850//
"""


@dataclass(frozen=True)
class StandIn:
    """Which files of which Debian packages make an Alpine package; a folder means all in it.

    With `folder` they are libraries for Alpine's own programs, and go there.
    """

    name: str
    debian: str
    paths: tuple[str, ...]
    folder: str = ""


_STAND_INS = (
    StandIn("attr", "attr", ("usr/bin/getfattr", "usr/bin/setfattr")),
    StandIn("squashfs-tools", "squashfs-tools", ("usr/bin/mksquashfs", "usr/bin/unsquashfs")),
    StandIn("mtools", "mtools", tuple(f"usr/bin/{name}" for name in ("mtools", "mcopy", "mmd"))),
    StandIn("dosfstools", "dosfstools", ("sbin/mkfs.fat", "sbin/mkfs.vfat", "sbin/fsck.fat")),
    StandIn("dropbear", "dropbear-bin", ("usr/sbin/dropbear",)),
    StandIn("grub", "grub-common", ("usr/bin/grub-mkimage",)),
    StandIn("zstd", "zstd", ("usr/bin/zstd",)),
)
# Runs programs of other architectures. It is static.
EMULATORS = "qemu-user-static"


def _stand_ins(arch: Arch) -> list[StandIn]:
    efi = StandIn("grub-efi", f"grub-efi-{arch.debian}-bin", (f"usr/lib/grub/{arch.grub}",))
    bios = StandIn("grub-bios", "grub-pc-bin", ("usr/lib/grub/i386-pc",))
    # It needs libc.so.6 alone, a name that musl's loader takes for musl itself.
    ffi = StandIn("libffi", "libffi8", (f"usr/lib/{arch.libraries}/libffi.so.8",), "usr/lib")
    return [*_STAND_INS, efi, *([bios] if arch.has_bios else []), ffi]


# What apk is made of; its static build is a stand-in too, so that a machine without any apk
# begins in the same way from the sample as from Alpine's mirror.
APK_PARTS = ("musl", "apk-tools", "libapk", "libcrypto3", "libssl3", "zlib")


def static_apk(system: System, arch: Arch) -> Draft:
    """The stand-in of apk-tools-static: apk with its libraries, complete in itself."""
    entries: dict[str, Entry] = {}
    version = ""
    for package in read_database(system.read("lib/apk/db/installed").decode()):
        if package.fields["P"] not in APK_PARTS:
            continue
        if package.fields["P"] == "apk-tools":
            version = package.fields["V"]
        for file in package.files:
            folder, _, name = file.path.rpartition("/")
            if not file.is_dir and (name == "apk" or (folder.endswith("lib") and ".so" in name)):
                path = "sbin/apk.static" if name == "apk" else file.path
                data = system.read(file.path)
                if system.files[file.path].is_link:
                    entries[path] = Entry(path, 0o777, target=data.decode())
                else:
                    entries[path] = Entry(path, 0o755, data)
    return stand_in(arch, "apk-tools-static", version, "apk and its libraries", entries.values())


def emulator(scratch: Path, host: Arch, arch: Arch) -> Draft:
    """The program that runs those of `arch` on `host`; `scratch` is an empty folder to work in."""
    tree = scratch / "tree"
    version = unpack_debian(scratch, tree, host, [EMULATORS])[EMULATORS]
    data = (tree / f"usr/bin/{arch.emulator}-static").read_bytes()
    entry = Entry(f"usr/bin/{arch.emulator}", 0o755, data)
    return stand_in(host, arch.emulator, version, f"{EMULATORS} of Debian", [entry])


def debian_tools(scratch: Path, arch: Arch) -> list[Draft]:
    """The stand-ins that come from Debian; `scratch` is an empty folder to work in."""
    tree = scratch / "tree"
    tools = _stand_ins(arch)
    versions = unpack_debian(scratch, tree, arch, dict.fromkeys(tool.debian for tool in tools))
    converter = f"usr/lib/{arch.libraries}/gconv"
    libraries: dict[str, Path] = {}
    drafts = []
    for tool in tools:
        entries = []
        for path in _files(tree, tool.paths):
            entry_path = path.relative_to(tree).as_posix()
            if tool.folder:
                if arch.loader in _patchelf("--print-needed", path).split():
                    _patchelf("--remove-needed", arch.loader, path)  # musl's has all of it
                entries.append(Entry(f"{tool.folder}/{path.name}", 0o644, path.read_bytes()))
                continue
            if path.is_symlink():
                entries.append(Entry(entry_path, 0o777, target=str(path.readlink())))
                continue
            mode = 0o755 if os.access(path, os.X_OK) else 0o644
            if path.open("rb").read(4) == b"\x7fELF" and mode == 0o755:
                _collect_libraries(tree, arch, path, libraries)
                _patchelf(
                    *("--set-interpreter", f"/{LIBRARIES}/{arch.loader}"),
                    *("--force-rpath", "--set-rpath", f"/{LIBRARIES}", path),
                )
            entries.append(Entry(entry_path, mode, path.read_bytes()))
        version, about = versions[tool.debian], f"{tool.debian} of Debian"
        depends = "" if tool.folder else "belay-glibc"
        drafts.append(stand_in(arch, tool.name, version, about, entries, depends))

    libraries[arch.loader] = _library(tree, arch, arch.loader)
    # Opened by the C library itself, so no executable names it.
    libraries["libgcc_s.so.1"] = _library(tree, arch, "libgcc_s.so.1")
    entries = [
        Entry(f"{LIBRARIES}/{name}", 0o755, libraries[name].read_bytes()) for name in libraries
    ]
    data = (tree / converter / "IBM850.so").read_bytes()
    entries.append(Entry(f"{converter}/IBM850.so", 0o755, data))
    entries.append(Entry(f"{converter}/gconv-modules", 0o644, CONVERTER_TABLE))
    version = versions["libc6"]
    drafts.append(stand_in(arch, "belay-glibc", version, "the C library of Debian", entries))
    return drafts


def stand_in(
    arch: Arch, name: str, version: str, about: str, entries: Iterable[Entry], depends: str = ""
) -> Draft:
    """A stand-in package; `depends` are names of packages."""
    about = f"Stand-in for Alpine's {name}, for the sample mirror only: {about}"
    return draft(name, version, about, entries, A=arch.name, L="as its origin", D=depends)


def _files(tree: Path, paths: Iterable[str]) -> Iterator[Path]:
    """Files of Debian's packages; newer ones have all of them below usr/."""
    for path in paths:
        start = next((p for p in (tree / path, tree / "usr" / path) if os.path.lexists(p)), None)
        if start is None:
            raise UserError(f"sample mirror: Debian's packages hold no {path}")
        if start.is_dir():
            yield from sorted(found for found in start.rglob("*") if not found.is_dir())
        else:
            yield start


def unpack_debian(scratch: Path, tree: Path, arch: Arch, names: Iterable[str]) -> dict[str, str]:
    """Unpack packages and all that they need into `tree`; the version of each."""
    apt = shutil.which("apt-get")
    if not apt or not shutil.which("dpkg-deb"):
        raise UserError(
            "the sample mirror takes its tools from Debian's packages, and this machine has no "
            "apt-get and dpkg-deb",
            "set mirror in image.toml to an Alpine mirror that it can reach",
        )
    folders = {name: scratch / name for name in ("state", "lists", "cache")}
    for folder in folders.values():
        (folder / "partial").mkdir(parents=True)
    (folders["cache"] / "archives" / "partial").mkdir(parents=True)
    status = scratch / "status"
    status.touch()
    settings = {
        "Dir::State": folders["state"],
        "Dir::State::Lists": folders["lists"],
        "Dir::State::status": status,  # empty: nothing counts as installed
        "Dir::Cache": folders["cache"],
        "Debug::NoLocking": 1,
        "Acquire::Retries": 3,
        "APT::Sandbox::User": "",
        "APT::Architecture": arch.debian,
        "APT::Architectures": arch.debian,
    }
    options = ["-q", *(f"-o{name}={value}" for name, value in settings.items())]
    log, what = LOGS / "sample-tools.log", "bringing the sample's tools from Debian"
    run([apt, *options, "update"], log=log, what=what)
    action = ["--download-only", "--no-install-recommends", "--yes", "install"]
    run([apt, *options, *action, *names], log=log, what=what)
    versions = {}
    for archive in sorted((folders["cache"] / "archives").glob("*.deb")):
        run(["dpkg-deb", "-x", archive, tree], log=log, what=f"unpacking {archive.name}")
        name, version, _ = archive.name.split("_")
        versions[name] = alpine_version(version)
    return versions


def alpine_version(debian: str) -> str:
    """Debian's version as apk can order it: `1:4.5.1-1+b2` becomes `4.5.1-r1`."""
    upstream, _, revision = debian.replace("%3a", ":").split(":")[-1].partition("-")
    digits = [part for part in upstream.split("+")[0].split("~")[0].split(".") if part.isdigit()]
    first = revision.split("+")[0].split(".")[0].split("~")[0]
    return ".".join(digits) + f"-r{first if first.isdigit() else 0}"


def _collect_libraries(tree: Path, arch: Arch, program: Path, found: dict[str, Path]) -> None:
    """Add to `found` every library that `program` needs, and all that those need."""
    for name in _patchelf("--print-needed", program).split():
        if name not in found:
            found[name] = _library(tree, arch, name)
            _collect_libraries(tree, arch, found[name], found)


def _library(tree: Path, arch: Arch, name: str) -> Path:
    for folder in (f"lib/{arch.libraries}", f"usr/lib/{arch.libraries}"):
        if (tree / folder / name).exists():
            return (tree / folder / name).resolve()
    raise UserError(f"sample mirror: Debian's packages hold no {name}")


def _patchelf(*arguments: str | Path) -> str:
    program = Path(sys.executable).parent / "patchelf"
    return subprocess.run(
        [program, *arguments], check=True, capture_output=True, text=True
    ).stdout  # fmt: skip
