"""From a config to what is built: the packages, the steps with their keys, and the outcome."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from invoke.context import Context

from builder.alpine.container import CONTAINER_WORLD, container_root
from builder.alpine.lock import lock_file, read_lock, write_lock
from builder.alpine.locking import Upgrade, is_stand_in
from builder.alpine.numbers import read_numbers
from builder.alpine.package_set import PackageSet, package_set
from builder.alpine.worlds import SYSTEM, locked
from builder.core.cache import prune
from builder.core.config import AUTO, GIB, Config
from builder.core.output import say, show_json
from builder.core.paths import LOCK_FILE
from builder.core.progress import Progress, human_size, show_outcomes
from builder.disk.layout import sized, slot_mib_for
from builder.engines.choose import ChosenEngine
from builder.engines.engine import Engine
from builder.steps.overlay import notes
from builder.steps.pipeline import NUMBERS, SLOT, pipeline
from builder.steps.runner import Outcome, ensure, run_order
from builder.steps.step import Keyed, Result, keyed


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
    size_mib = max(
        (other.slots.get(kernel, 0) for other in others if other and other.arch == lock.arch),
        default=0,
    )
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
    plan = keyed(steps, run_order(steps, [result.step]), packages.lock.digest(CONTAINER_WORLD))
    ensure(plan, container_root(packages, engine), engine, progress)
    return plan[result.step].place / result.file


@dataclass(frozen=True)
class Plan:
    """The steps that lead to some targets, with their keys, and what they run in."""

    steps: Mapping[str, Keyed]
    root: Path
    engine: Engine
    config: Config  # with the size of a slot


def plan_for(
    config: Config, targets: Sequence[str], progress: Progress, learn: bool = True
) -> Plan:
    """Make the plan; the packages and the container that it needs are fetched and made first.

    Where a target has slots, and there never was one with this kernel, that is built to `learn` how
    large they have to be.
    """
    engine = ChosenEngine(config.build.engine, config.alpine.arch)
    packages = fetched(config, engine, progress)
    root = container_root(packages, engine)
    with_size = sized(config, packages.lock.slots)
    steps = pipeline(with_size, packages)
    if learn and SLOT.step in run_order(steps, targets):
        packages = with_slot_size(config, engine, progress, packages)
        with_size = sized(config, packages.lock.slots)
        steps = pipeline(with_size, packages)
    order = run_order(steps, targets or list(steps))
    return Plan(keyed(steps, order, packages.lock.digest("container")), root, engine, with_size)


def build(
    c: Context, target: str, config: Config, force: bool = False, json: bool = False
) -> list[Outcome]:
    """Build the step `target` and all before it, show how it went, and return that.

    With `inv --dry` only say what would run.
    """
    start = time.monotonic()
    with Progress() as progress:
        plan = plan_for(config, [target], progress, learn=not c.config.run.dry)
        if c.config.run.dry:
            show_dry(plan, [target] if force else [])
            return []
        forced = [target] if force else []
        outcomes = ensure(plan.steps, plan.root, plan.engine, progress, forced)
        # To make the plan, some may have been built already.
        outcomes = [progress.built.get(outcome.step, outcome) for outcome in outcomes]
        if any(outcome.step == "rootfs" and outcome.state == "built" for outcome in outcomes):
            for note in notes():
                say(f"note: {note}")
        if config.build.cache_gib and any(outcome.state == "built" for outcome in outcomes):
            for entry in prune(None, config.build.cache_gib * GIB):
                say(f"the cache was full: removed {entry.path.name}, {human_size(entry.size)}")
    if json:
        show_json([asdict(outcome) for outcome in outcomes])
    else:
        show_outcomes(outcomes, time.monotonic() - start)
    return outcomes


def show_dry(plan: Plan, forced: Sequence[str]) -> None:
    """Print the command of each step that would run, in order."""
    for name, item in plan.steps.items():
        if item.is_built and name not in forced:
            say(f"# {name}: cached")
            continue
        if not item.step.script:
            say(f"# {name}: on this machine, without a command")
            continue
        job = item.job(plan.root, Path("OUT"), Path("OUT"))
        say(f"# {name}")
        print(shlex.join(str(word) for word in plan.engine.describe(job)))
