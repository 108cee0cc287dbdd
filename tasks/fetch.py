"""`inv lock` and `inv fetch`: the two tasks that need a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from invoke.context import Context
from invoke.tasks import task

from builder.alpine import container
from builder.alpine.lock import lock_file, lock_of
from builder.alpine.locking import Upgrade
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
    """Write the exact packages that rootfs/world and the container need to apk.lock.

    Each architecture of image.toml has a lock of its own.
    """
    configs = load_config().each_arch()
    locks = []
    for config, asked in zip(configs, _asked(upgrade, configs), strict=True):
        engine = ChosenEngine(config.build.engine, config.alpine.arch)
        former = lock_of(config)
        with Progress() as progress:
            packages = fetched(config, engine, progress, asked, at_once=True)
            new = with_slot_size(config, engine, progress, packages).lock
        locks.append(asdict(new))
        total = sum(len(some) for some in new.packages.values())
        news = ", as before" if new == former else ""
        say(f"{lock_file(config).name}: {total} packages from {new.source}{news}")
    if json:
        show_json(locks if len(locks) > 1 else locks[0])


def _asked(upgrade: str | bool | None, configs: Sequence[Config]) -> list[Upgrade]:
    """What --upgrade asks for, of each lock. Raises UserError where a package is in none."""
    if upgrade is None or isinstance(upgrade, bool):
        return [None if upgrade is None else () for _ in configs]
    names = upgrade.split(",")
    locks = [lock_of(config) for config in configs]
    known = [
        {p.name for some in lock.packages.values() for p in some} if lock else set()
        for lock in locks
    ]
    for name in names:
        if not any(name in some for some in known):
            files = " and ".join(lock_file(config).name for config in configs)
            raise UserError(f"{files}: found no package {name}, so it can't be upgraded")
    return [tuple(name for name in names if name in some) or None for some in known]


@task(
    help={
        "refresh": "first lock what the mirror has now, as inv lock --upgrade does",
        "json": "print the lock as JSON",
    }
)
def fetch(c: Context, refresh: bool = False, json: bool = False) -> None:
    """Download the packages in apk.lock, so that a build needs no network."""
    locks = []
    for config in load_config().each_arch():
        engine = ChosenEngine(config.build.engine, config.alpine.arch)
        with Progress() as progress:
            packages = fetched(config, engine, progress, () if refresh else None)
        locks.append(asdict(packages.lock))
        if len(locks) == 1:  # Dockerfile.alpine is for one
            container.export_container(packages, BUILD / "container")
        for world, some in sorted(packages.lock.packages.items()):
            size = human_size(sum(p.size for p in some))
            say(f"{lock_file(config).name}: {world}: {len(some)} packages, {size}")
    if json:
        show_json(locks if len(locks) > 1 else locks[0])
