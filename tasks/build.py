"""The tasks that make artefacts: each builds what it names, and first what that needs."""

from __future__ import annotations

import time
from dataclasses import asdict

from invoke.context import Context
from invoke.tasks import task

from tasks.core.config import Config, load_config
from tasks.core.output import show_json
from tasks.core.progress import Progress, show_outcomes
from tasks.steps.runner import Outcome, ensure, run_order

HELP = {"force": "build it even when nothing changed", "json": "print the outcome as JSON"}


def build(target: str, config: Config, force: bool = False, json: bool = False) -> list[Outcome]:
    """Build the step `target` and all before it, show how it went, and return that."""
    # Imported here, because `inv --list` and the like need none of it.
    from tasks.alpine.container import container_root
    from tasks.engines.bubblewrap import Bubblewrap
    from tasks.fetch import fetched
    from tasks.steps.pipeline import pipeline
    from tasks.steps.step import keyed

    start = time.monotonic()
    engine = Bubblewrap()
    with Progress() as progress:
        packages = fetched(config, engine, progress)
        root = container_root(packages, engine)
        steps = pipeline(config, packages)
        plan = keyed(steps, run_order(steps, [target]), packages.lock.digest("container"))
        outcomes = ensure(plan, root, engine, progress, force=[target] if force else [])
    if json:
        show_json([asdict(outcome) for outcome in outcomes])
    else:
        show_outcomes(outcomes, time.monotonic() - start)
    return outcomes


@task(help=HELP)
def chroot(c: Context, force: bool = False, json: bool = False) -> None:
    """Install the packages of rootfs/world into build/chroot.tar."""
    build("chroot", load_config(), force, json)


@task(help=HELP)
def initramfs(c: Context, force: bool = False, json: bool = False) -> None:
    """Make build/initramfs, which finds the slot and starts the system in it."""
    build("initramfs", load_config(), force, json)


@task(help=HELP)
def modloop(c: Context, force: bool = False, json: bool = False) -> None:
    """Pack kernel modules and firmware into build/modloop.squashfs."""
    build("modloop", load_config(), force, json)


@task(help=HELP)
def rootfs(c: Context, force: bool = False, json: bool = False) -> None:
    """Pack the system and rootfs/overlay into build/root.squashfs."""
    build("rootfs", load_config(), force, json)


@task(help=HELP)
def slot(c: Context, force: bool = False, json: bool = False) -> None:
    """Put build/slot.img together: kernel, initramfs, root and modules."""
    build("slot", load_config(), force, json)


@task(help=HELP)
def image(c: Context, force: bool = False, json: bool = False) -> None:
    """Make build/disk.img, which boots slot A or B on UEFI and BIOS."""
    build("image", load_config(), force, json)
