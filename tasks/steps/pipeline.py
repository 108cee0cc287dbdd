"""The steps of the build: for each its script, and what goes in.

This is the place to see what depends on what. It is pure: nothing runs here.
"""

from __future__ import annotations

from tasks.alpine.apk import Apk
from tasks.alpine.initramfs import pack_initramfs
from tasks.alpine.snapshot import Snapshot
from tasks.alpine.tree import pack_root
from tasks.core.config import Config
from tasks.core.paths import PROJECT
from tasks.steps.step import Known, Result, Step

SYSTEM = "system"  # what the snapshot calls the packages of the node
WORLD_FILE = PROJECT / "rootfs" / "world"


def system_world(config: Config) -> tuple[str, ...]:
    """The packages of the node: those of `rootfs/world`, and the kernel."""
    lines = WORLD_FILE.read_text().splitlines()
    words = [word for line in lines for word in line.split("#")[0].split()]
    return (*words, f"linux-{config.alpine.kernel}")


def pipeline(config: Config, snapshot: Snapshot) -> dict[str, Step]:
    """All steps, by name."""
    steps = (chroot(config, snapshot), initramfs(config), modloop(), rootfs(config))
    return {step.name: step for step in steps}


CHROOT = Result("chroot", "chroot.tar")


def chroot(config: Config, snapshot: Snapshot) -> Step:
    """The installed packages, as a tar."""
    return Step(
        name="chroot",
        script=PROJECT / "rootfs" / "chroot.sh",
        inputs={
            "mirror": Known(snapshot.mirror, snapshot.digest(SYSTEM)),
            "keys": Known(snapshot.keys, ""),  # which key signed a package doesn't change it
        },
        env={
            "WORLD": " ".join(system_world(config)),
            "APK_OPTIONS": " ".join(Apk.options(config.alpine)),
        },
        outputs=("chroot.tar",),
        finish=pack_root,
    )


def initramfs(config: Config) -> Step:
    """What the kernel runs first: it finds the slot."""
    folder = PROJECT / "initramfs"
    return Step(
        name="initramfs",
        script=folder / "initramfs.sh",
        inputs={
            "chroot.tar": CHROOT,
            "init": folder / "init",
            "features": folder / "features",
        },
        env={"FEATURES": " ".join(config.boot.features)},
        outputs=("initramfs",),
        finish=pack_initramfs,
    )


def modloop() -> Step:
    """The slot's modloop part: kernel modules, and the firmware they ask for."""
    return Step(
        name="modloop",
        script=PROJECT / "modloop" / "modloop.sh",
        inputs={"chroot.tar": CHROOT},
        outputs=("modloop.squashfs",),
    )


def rootfs(config: Config) -> Step:
    """The slot's root part: the packages and `rootfs/overlay`."""
    folder = PROJECT / "rootfs"
    return Step(
        name="rootfs",
        script=folder / "rootfs.sh",
        inputs={
            "chroot.tar": CHROOT,
            "overlay": folder / "overlay",
            "services": folder / "services",
        },
        env={
            "OS_NAME": config.os.name,
            "OS_VERSION": config.os.version,
            "NODE_LABEL": config.node.label,
            "CONSOLE": config.login.console,
        },
        outputs=("root.squashfs",),
    )
