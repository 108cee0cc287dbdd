"""`inv fetch`: the one task that needs a network."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from tasks.alpine import container
from tasks.alpine.snapshot import Snapshot, snapshot_for
from tasks.core.config import Config, load_config
from tasks.core.output import say, show_json
from tasks.core.progress import Progress, human_size
from tasks.engines.engine import Engine
from tasks.steps.pipeline import SYSTEM, system_world


def fetched(config: Config, engine: Engine, progress: Progress, refresh: bool = False) -> Snapshot:
    """The snapshot of the mirror that a build uses, fetched if it isn't there yet."""
    worlds = {
        container.WORLD: (container.NAME, container.package_names()),
        SYSTEM: ("rootfs/world", system_world(config)),
    }

    def show(come: int, total: int) -> None:
        progress.started("fetch", f"{human_size(come)} of {human_size(total)}")

    progress.started("fetch", "looking at the mirror", quiet=True)
    snapshot = snapshot_for(config.alpine, worlds, engine, show, refresh)
    progress.stopped("fetch")
    return snapshot


@task(
    help={
        "refresh": "ask the mirror for its newest packages",
        "json": "print the packages as JSON",
    }
)
def fetch(c: Context, refresh: bool = False, json: bool = False) -> None:
    """Bring the package indexes and packages that a build needs, and keep them."""
    from tasks.engines.bubblewrap import Bubblewrap

    config = load_config()
    with Progress() as progress:
        snapshot = fetched(config, Bubblewrap(), progress, refresh)
    if json:
        show_json(snapshot.record)
        return
    say(f"from {snapshot.source}")
    for world in (container.WORLD, SYSTEM):
        packages = snapshot.packages(world)
        size = human_size(sum(package.size for package in packages))
        say(f"  {world}: {len(packages)} packages, {size}")
