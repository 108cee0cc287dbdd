"""The tasks that make artefacts: each builds what it names, and first what that needs."""

from __future__ import annotations

import os

from invoke.context import Context
from invoke.tasks import task

from builder.core.config import Config, load_config
from builder.steps.plan import build

HELP = {
    "alpine": "the Alpine release, for this run: 3.23 or 3.23.5",
    "force": "build it even if nothing changed",
    "json": "print the outcome as JSON",
}


def config_for(alpine: str) -> Config:
    """`image.toml`, with another Alpine release if `alpine` names one."""
    environ = {**os.environ, "BELAY_ALPINE_RELEASE": alpine} if alpine else os.environ
    return load_config(environ=environ)


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
    """Assemble build/slot.img: kernel, initramfs, root and modules."""
    build(c, "slot", config_for(alpine), force, json)


@task(help=HELP)
def image(c: Context, alpine: str = "", force: bool = False, json: bool = False) -> None:
    """Make build/disk.img, which boots slot A or B on UEFI and BIOS."""
    build(c, "image", config_for(alpine), force, json)
