"""`inv lock` and `inv fetch`: the two tasks that need a network."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from invoke.context import Context
from invoke.tasks import task

from builder.alpine import container, on_hand
from builder.alpine.lock import Lock, committed_lock, lock_file, read_lock, write_lock
from builder.alpine.locking import Upgrade, World, changes, is_current, is_stand_in, make_lock
from builder.alpine.mirror import is_back
from builder.alpine.numbers import read_numbers
from builder.alpine.package_set import PackageSet, package_set
from builder.core.config import AUTO, Config, load_config
from builder.core.errors import UserError
from builder.core.output import say, show_json
from builder.core.paths import BUILD, LOCK_FILE
from builder.core.progress import Progress, human_size
from builder.disk.layout import sized, slot_mib_for
from builder.engines.choose import ChosenEngine
from builder.engines.engine import Engine
from builder.steps.pipeline import INITRAMFS, NUMBERS, SLOT, SYSTEM, pipeline, system_world
from builder.steps.runner import ensure, run_order
from builder.steps.step import Result, keyed


def worlds(config: Config) -> dict[str, World]:
    """What is locked: the packages of the container, and those of the node."""
    wanted = {
        container.WORLD: (container.NAME, container.package_names()),
        SYSTEM: ("rootfs/world", system_world(config)),
    }
    beyond = {
        INITRAMFS: ("packages in [boot] of image.toml", config.boot.packages),
        on_hand.WORLD: ("available in [alpine] of image.toml", config.alpine.available),
    }
    for world, (source, more) in beyond.items():
        if more:
            wanted[world] = (source, (*system_world(config), *more))
    return wanted


def locked(
    config: Config,
    engine: Engine,
    progress: Progress,
    upgrade: Upgrade = None,
    at_once: bool = False,
) -> tuple[Lock, list[str]]:
    """The lock, brought up to date where `image.toml` or a world asks for more; its changes.

    Where the sample took the place of Alpine's mirror, that one is asked again; see `is_back`.
    """
    place = lock_file(config)
    former = read_lock(place)
    wanted = worlds(config)
    took_place = former and upgrade is None and is_stand_in(former, config.alpine)
    if took_place and is_back(config.alpine, at_once):
        say(f"{place.name}: Alpine's mirror answers again, and takes the place of the sample's")
        upgrade = ()
    elif former and upgrade is None and is_current(former, config.alpine, wanted):
        return former, []

    progress.started("lock", "looking at the mirror", quiet=True)
    with progress.transfer("lock", quiet=True) as transferred:
        lock = make_lock(config.alpine, wanted, former, upgrade, engine, transferred)
    # Other Alpine releases begin with numbers and sizes of this one: nodes go from one to another.
    named = former or read_lock(LOCK_FILE) or committed_lock()
    if named:
        lock = replace(lock, numbers=named.numbers, slots=named.slots)
    write_lock(place, lock)
    return lock, changes(former, lock) if former else ["made anew"]


def fetched(
    config: Config,
    engine: Engine,
    progress: Progress,
    upgrade: Upgrade = None,
    at_once: bool = False,
) -> PackageSet:
    """The packages that a build uses, fetched if they aren't here yet; see `locked`.

    Where they are others than before, users and groups that are new get their numbers.
    """
    lock, changed = locked(config, engine, progress, upgrade, at_once)
    for line in changed:
        say(f"{lock_file(config).name}: {line}")
    if is_stand_in(lock, config.alpine):
        say("note: these are the sample mirror's packages, as Alpine's can't be reached")
    with progress.transfer("fetch") as transferred:
        packages = package_set(lock, config.alpine, transferred)
    if lock.numbered == lock.digest(SYSTEM) and not at_once:
        return packages
    # The numbers that the scripts of the packages give out when they are installed.
    found = read_numbers(_built(NUMBERS, config, engine, progress, packages))
    numbers = lock.numbers.with_new(found)
    if lock.numbers.users:  # else all are new
        for line in lock.numbers.changes(numbers):
            say(f"{lock_file(config).name}: {line}")
    lock = replace(lock, numbers=numbers, numbered=lock.digest(SYSTEM))
    write_lock(lock_file(config), lock)
    return replace(packages, lock=lock)


def with_slot_size(
    config: Config, engine: Engine, progress: Progress, packages: PackageSet
) -> PackageSet:
    """`packages` with the size of a slot in their lock; where it isn't known, a slot is built."""
    lock, kernel = packages.lock, config.alpine.kernel
    if config.disk.slot_mib != AUTO or kernel in lock.slots:
        return packages
    others = (read_lock(path) for path in LOCK_FILE.parent.glob(f"{LOCK_FILE.stem}*.lock"))
    size_mib = max((other.slots.get(kernel, 0) for other in others if other), default=0)
    if not size_mib:  # of no Alpine release
        slot = _built(SLOT, config, engine, progress, packages)
        size_mib = slot_mib_for(slot.stat().st_size)
    lock = replace(lock, slots={**lock.slots, kernel: size_mib})
    write_lock(lock_file(config), lock)
    say(f"{lock_file(config).name}: slots with linux-{kernel} have {size_mib} MiB from now on")
    return replace(packages, lock=lock)


def _built(
    result: Result, config: Config, engine: Engine, progress: Progress, packages: PackageSet
) -> Path:
    """A file that a step makes, built before there is a plan of the whole."""
    steps = pipeline(sized(config, packages.lock.slots), packages)
    plan = keyed(steps, run_order(steps, [result.step]), packages.lock.digest(container.WORLD))
    ensure(plan, container.container_root(packages, engine), engine, progress)
    return plan[result.step].place / result.file


@task(
    help={
        "upgrade": "take what the mirror has now: for all packages, or for these and what they "
        "need (curl,openssl)",
        "json": "print the lock as JSON",
    },
    optional=["upgrade"],
)
def lock(c: Context, upgrade: str | None = None, json: bool = False) -> None:
    """Note in apk.lock the exact packages that rootfs/world and the container need."""
    config = load_config()
    engine = ChosenEngine(config.build.engine)
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
    place = lock_file(config)
    former = read_lock(place)
    packages = former.packages.values() if former else ()
    there = {package.name for some in packages for package in some}
    for name in names:
        if name not in there:
            raise UserError(f"{place}: found no package {name}, so it can't be upgraded")
    return names


@task(
    help={
        "refresh": "first lock what the mirror has now, as inv lock --upgrade does",
        "json": "print the lock as JSON",
    }
)
def fetch(c: Context, refresh: bool = False, json: bool = False) -> None:
    """Bring the packages of apk.lock, so that a build needs no network."""
    config = load_config()
    engine = ChosenEngine(config.build.engine)
    with Progress() as progress:
        packages = fetched(config, engine, progress, () if refresh else None)
    container.export_container(packages, BUILD / "container")
    if json:
        show_json(asdict(packages.lock))
        return
    for world, some in sorted(packages.lock.packages.items()):
        say(f"{world}: {len(some)} packages, {human_size(sum(p.size for p in some))}")
