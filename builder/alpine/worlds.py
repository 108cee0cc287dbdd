"""The worlds of a config, and the lock that holds what they need."""

from __future__ import annotations

import re
from dataclasses import replace

from builder.alpine import container, offline
from builder.alpine.apk import World
from builder.alpine.kernel import MICROCODE_PACKAGES
from builder.alpine.lock import Lock, committed_lock, lock_file, lock_of, read_lock, write_lock
from builder.alpine.locking import (
    Upgrade,
    changes,
    is_current,
    is_stand_in,
    make_lock,
    sample_has_changed,
)
from builder.alpine.mirror import is_back
from builder.core.arch import host_arch
from builder.core.config import WORLD_WANTED, WORLD_WORD, Config
from builder.core.errors import UserError
from builder.core.files import read_text
from builder.core.output import say
from builder.core.paths import LOCK_FILE, PROJECT
from builder.core.progress import Progress
from builder.disk.boards import board_of
from builder.engines.engine import Engine

SYSTEM = "system"  # what the lock calls the packages of the node
INITRAMFS = "initramfs"  # and those of the node and of the initramfs
WORLD_FILE = PROJECT / "rootfs" / "world"


def system_world(config: Config) -> tuple[str, ...]:
    """The packages of the node: those of `rootfs/world`, and the kernel.

    With the kernel for real machines comes the microcode of their processors, unless the world says
    something of it: `!amd-ucode`.

    Raises UserError for a word that apk wouldn't understand.
    """
    words = []
    for number, line in enumerate(read_text(WORLD_FILE).split("\n"), start=1):
        for word in line.split("#")[0].split():
            if not WORLD_WORD.fullmatch(word):
                raise UserError(f'rootfs/world:{number}: found "{word}", wanted {WORLD_WANTED}')
            words.append(word)
    kernel = f"linux-{config.alpine.kernel}"
    asked = {word.lstrip("!") for word in words}
    microcode = [name for name in MICROCODE_PACKAGES if name not in asked]
    return (*words, kernel, *(microcode if config.alpine.kernel == "lts" else ()))


def node_world(config: Config) -> list[str]:
    """The same for apk on the node, which knows no tags: it has other repositories."""
    return [re.sub(r"@[^<>=~]+", "", word) for word in system_world(config)]


def worlds(config: Config) -> dict[str, World]:
    """What is locked: the packages of the container, and those of the node."""
    arch = config.alpine.arch
    wanted = {
        container.CONTAINER_WORLD: container.container_world(arch),
        SYSTEM: World("rootfs/world", system_world(config), arch),
    }
    board = board_of(config)
    names = container.LOADER if arch != host_arch().name else ()  # else the container has it
    names = (*names, *(board.packages if board else ()))
    if names:
        wanted[container.LOADER_WORLD] = World("boot loader", names, arch)
    beyond = {
        INITRAMFS: ("packages in [boot] of image.toml", config.boot.packages),
        offline.AVAILABLE: ("available in [alpine] of image.toml", config.alpine.available),
    }
    for world, (source, more) in beyond.items():
        if more:
            wanted[world] = World(source, (*system_world(config), *more), arch)
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
    path = lock_file(config)
    former = lock_of(config)
    wanted = worlds(config)
    took_place = former and upgrade is None and is_stand_in(former, config.alpine)
    if took_place and is_back(config.alpine, at_once):
        say(f"{path.name}: Alpine's mirror answers again, and takes the place of the sample's")
        upgrade = ()
    elif former and upgrade is None and is_current(former, config.alpine, wanted):
        if not sample_has_changed(former, config.alpine):
            return former, []
        say(f"{path.name}: the sample mirror has other packages on this machine; it is locked anew")
        upgrade = ()

    progress.started("lock", "looking at the mirror", quiet=True)
    with progress.transfer("lock", quiet=True) as transferred:
        lock = make_lock(config.alpine, wanted, former, upgrade, engine, transferred)
    # Other Alpine releases begin with numbers and sizes of this one: nodes go from one to another.
    named = (
        former
        or committed_lock(path.name)
        or read_lock(LOCK_FILE)
        or committed_lock(LOCK_FILE.name)
    )
    if named:
        slots = named.slots if named.arch == lock.arch else {}
        lock = replace(lock, numbers=named.numbers, slots=slots)
    write_lock(path, lock)
    return lock, changes(former, lock) if former else ["made anew"]
