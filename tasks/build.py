"""The tasks that make artefacts: each builds what it names, and first what that needs."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from invoke.context import Context
from invoke.tasks import task

from builder.core.cache import prune
from builder.core.config import GIB, Config, load_config
from builder.core.output import say, show_json
from builder.core.progress import Progress, human_size, show_outcomes
from builder.engines.choose import ChosenEngine
from builder.engines.engine import Engine
from builder.steps.overlay import notes
from builder.steps.runner import Outcome, ensure, run_order
from builder.steps.step import Keyed

HELP = {
    "alpine": "the Alpine release, for this run: 3.23 or 3.23.5",
    "force": "build it even when nothing changed",
    "json": "print the outcome as JSON",
}


def config_for(alpine: str) -> Config:
    """`image.toml`, with another Alpine release if `alpine` names one."""
    environ = {**os.environ, "BELAY_ALPINE_RELEASE": alpine} if alpine else os.environ
    return load_config(environ=environ)


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
    from builder.alpine.container import container_root
    from builder.disk.layout import sized
    from tasks.fetch import fetched, with_slot_size
    from builder.steps.pipeline import SLOT, pipeline
    from builder.steps.step import keyed

    engine = ChosenEngine(config.build.engine)
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


@task(help=HELP)
def chroot(c: Context, alpine: str = "", force: bool = False, json: bool = False) -> None:
    """Install the packages of rootfs/world into build/chroot.tar."""
    build(c, "chroot", config_for(alpine), force, json)


@task(help=HELP)
def initramfs(c: Context, alpine: str = "", force: bool = False, json: bool = False) -> None:
    """Make build/initramfs, which finds the slot and starts the system in it."""
    build(c, "initramfs", config_for(alpine), force, json)


@task(help=HELP)
def modloop(c: Context, alpine: str = "", force: bool = False, json: bool = False) -> None:
    """Pack kernel modules and firmware into build/modloop.squashfs."""
    build(c, "modloop", config_for(alpine), force, json)


@task(help=HELP)
def rootfs(c: Context, alpine: str = "", force: bool = False, json: bool = False) -> None:
    """Pack the system and rootfs/overlay into build/root.squashfs."""
    build(c, "rootfs", config_for(alpine), force, json)


@task(help=HELP)
def slot(c: Context, alpine: str = "", force: bool = False, json: bool = False) -> None:
    """Put build/slot.img together: kernel, initramfs, root and modules."""
    build(c, "slot", config_for(alpine), force, json)


@task(help=HELP)
def image(c: Context, alpine: str = "", force: bool = False, json: bool = False) -> None:
    """Make build/disk.img, which boots slot A or B on UEFI and BIOS."""
    build(c, "image", config_for(alpine), force, json)
