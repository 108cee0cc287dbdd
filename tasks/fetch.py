"""`inv lock` and `inv fetch`: the two tasks that need a network."""

from __future__ import annotations

from dataclasses import asdict

from invoke.context import Context
from invoke.tasks import task

from builder.alpine import container
from builder.alpine.lock import lock_file, read_lock
from builder.core.config import Config, load_config
from builder.core.errors import UserError
from builder.core.output import say, show_json
from builder.core.paths import BUILD
from builder.core.progress import Progress, human_size
from builder.engines.choose import ChosenEngine
from builder.steps.plan import fetched, with_slot_size


@task(
    help={
        "upgrade": "take what the mirror has now: all packages, or these and what they need "
        "(curl,openssl)",
        "json": "print the lock as JSON",
    },
    optional=["upgrade"],
)
def lock(c: Context, upgrade: str | None = None, json: bool = False) -> None:
    """Write the exact packages that rootfs/world and the container need to apk.lock."""
    config = load_config()
    engine = ChosenEngine(config.build.engine, config.alpine.arch)
    asked = None if upgrade is None else _names(upgrade, config)
    former = read_lock(lock_file(config))
    with Progress() as progress:
        packages = fetched(config, engine, progress, asked, at_once=True)
        new = with_slot_size(config, engine, progress, packages).lock
    if json:
        show_json(asdict(new))
        return
    total = sum(len(some) for some in new.packages.values())
    news = ", as before" if new == former else ""
    say(f"{lock_file(config).name}: {total} packages from {new.source}{news}")


def _names(upgrade: str | bool, config: Config) -> tuple[str, ...]:
    """The packages after --upgrade; none are all. Raises UserError where one isn't locked."""
    if isinstance(upgrade, bool):
        return ()
    names = tuple(upgrade.split(","))
    path = lock_file(config)
    former = read_lock(path)
    packages = former.packages.values() if former else ()
    known = {package.name for some in packages for package in some}
    for name in names:
        if name not in known:
            raise UserError(f"{path}: found no package {name}, so it can't be upgraded")
    return names


@task(
    help={
        "refresh": "first lock what the mirror has now, as inv lock --upgrade does",
        "json": "print the lock as JSON",
    }
)
def fetch(c: Context, refresh: bool = False, json: bool = False) -> None:
    """Download the packages in apk.lock, so that a build needs no network."""
    config = load_config()
    engine = ChosenEngine(config.build.engine, config.alpine.arch)
    with Progress() as progress:
        packages = fetched(config, engine, progress, () if refresh else None)
    container.export_container(packages, BUILD / "container")
    if json:
        show_json(asdict(packages.lock))
        return
    for world, some in sorted(packages.lock.packages.items()):
        say(f"{world}: {len(some)} packages, {human_size(sum(p.size for p in some))}")
