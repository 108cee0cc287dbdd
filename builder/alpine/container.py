"""The build container: an Alpine root with the tools that the steps run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from builder.alpine.apk import World, world_text
from builder.alpine.package_set import PackageSet
from builder.core.arch import ARCHES, host_arch
from builder.core.cache import mark_used
from builder.core.files import folder_for, remove_tree
from builder.core.paths import CACHE, PROJECT
from builder.engines.engine import MOUNT_POINTS, Engine

SETTLE = Path(__file__).with_name("settle.sh")
PACKAGE_LIST = Path(__file__).parent.parent / "engines" / "container.packages"
CONTAINER_WORLD = "container"  # what the lock calls it
LOADER_WORLD = "boot-loader"  # and GRUB for UEFI, where it is of another architecture
LOADER = ("grub-efi",)
RECIPE = 3  # counts up when the same packages are to become another root
PACKAGE_LIST_NAME = PACKAGE_LIST.relative_to(PROJECT).as_posix()


def container_world(arch: str) -> World:
    """The packages of the container in which images for an architecture are built.

    Its tools run on this machine. Where the image is for another one, what GRUB is made of is not
    theirs, and an emulator runs what has to run of the image.
    """
    target, host = ARCHES[arch], host_arch()
    names = set(PACKAGE_LIST.read_text().split())
    if not host.char_is_signed:
        names.add("e2fsprogs-extra")  # frame.sh says what for
    if not target.has_bios:
        names.remove("grub-bios")
    if target != host:
        names = names - set(LOADER) | {target.emulator}
    return World(PACKAGE_LIST_NAME, tuple(sorted(names)), host.name)


def container_root(packages: PackageSet, engine: Engine) -> Path:
    """The container's root, installed from the lock if it isn't there yet."""
    cached = CACHE / "containers" / f"{packages.lock.digest(CONTAINER_WORLD)[:16]}-{RECIPE}"
    if not cached.is_dir():
        with folder_for(cached) as folder:
            packages.apk(engine).install(
                packages.folder(CONTAINER_WORLD), container_world(packages.lock.arch), folder
            )
            root = folder / "root"
            remove_tree(root / "dev")  # device nodes, where the engine could make some
            for name in MOUNT_POINTS:
                (root / name).mkdir(exist_ok=True)
            subprocess.run(("sh", SETTLE, root), check=True)
    mark_used(cached)
    return cached / "root"


def export_container(packages: PackageSet, target: Path) -> None:
    """Copy to `place` what `Dockerfile.alpine` installs: docker follows no links out of it."""
    remove_tree(target)
    with folder_for(target) as folder:
        shutil.copytree(packages.folder(CONTAINER_WORLD), folder / "packages")
        shutil.copytree(packages.keys, folder / "keys")
        shutil.copy(SETTLE, folder)
        (folder / "world").write_text(world_text(container_world(packages.lock.arch).names))
