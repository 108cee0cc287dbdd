"""The build container: an Alpine root with the tools that the steps run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from builder.alpine.apk import world_text
from builder.alpine.package_set import PackageSet
from builder.core.cache import mark_used
from builder.core.files import folder_for, remove_tree
from builder.core.paths import CACHE, PROJECT
from builder.engines.engine import MOUNT_POINTS, Engine

SETTLE = Path(__file__).with_name("settle.sh")
PACKAGE_LIST = Path(__file__).parent.parent / "engines" / "container.packages"
CONTAINER_WORLD = "container"  # what the lock calls it
RECIPE = 3  # counts up when the same packages are to become another root
PACKAGE_LIST_NAME = PACKAGE_LIST.relative_to(PROJECT).as_posix()


def package_names() -> tuple[str, ...]:
    """The packages of the container."""
    return tuple(PACKAGE_LIST.read_text().split())


def container_root(packages: PackageSet, engine: Engine) -> Path:
    """The container's root, installed from the lock if it isn't there yet."""
    cached = CACHE / "containers" / f"{packages.lock.digest(CONTAINER_WORLD)[:16]}-{RECIPE}"
    if not cached.is_dir():
        with folder_for(cached) as folder:
            packages.apk(engine).install(
                packages.folder(CONTAINER_WORLD), package_names(), folder, PACKAGE_LIST_NAME
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
        (folder / "world").write_text(world_text(package_names()))
