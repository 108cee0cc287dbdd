"""The build container: an Alpine root with the tools that the steps run."""

from __future__ import annotations

from pathlib import Path

from tasks.alpine.snapshot import Snapshot
from tasks.core.config import Alpine
from tasks.core.files import folder_for, remove_tree
from tasks.core.paths import CACHE, PROJECT
from tasks.engines.engine import MOUNT_POINTS, Engine

PACKAGE_LIST = Path(__file__).parent.parent / "engines" / "container.packages"
WORLD = "container"  # what the snapshot calls it
NAME = PACKAGE_LIST.relative_to(PROJECT).as_posix()


def package_names() -> tuple[str, ...]:
    """The packages of the container; `Dockerfile.alpine` reads the same list."""
    return tuple(PACKAGE_LIST.read_text().split())


def container_root(snapshot: Snapshot, alpine: Alpine, engine: Engine) -> Path:
    """The container's root, installed by the snapshot's apk if it isn't there yet."""
    place = CACHE / "containers" / snapshot.digest(WORLD)[:16]
    if not place.is_dir():
        with folder_for(place) as folder:
            snapshot.apk(engine, alpine).add(package_names(), folder, NAME)
            root = folder / "root"
            remove_tree(root / "dev")  # device nodes, where the engine could make some
            for name in MOUNT_POINTS:
                (root / name).mkdir(exist_ok=True)
    return place / "root"
