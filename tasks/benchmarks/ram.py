"""How much memory a node needs, beside the same system with everything in its initramfs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invoke.context import Context

from tasks.build import build, plan_for
from tasks.core.config import load_config
from tasks.core.paths import BUILD, CACHE, LOGS
from tasks.core.progress import Progress
from tasks.engines.engine import Job
from tasks.vm.machine import Machine

MEMORY_MIB = 2048
BOOT_TIMEOUT_S = 600


@dataclass(frozen=True)
class Usage:
    """MiB of memory that can't be used for anything else, after login."""

    what: str
    mib: float


def ram_usage(c: Context, progress: Progress) -> list[Usage]:
    """Boot both ways, one after the other."""
    config = load_config()
    build(c, "image", config)
    plan = plan_for(config, ["image"], progress)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        names = ("root.squashfs", "modloop.squashfs")
        job = Job(
            "ram",
            plan.root,
            ("/bin/sh", "-eu", "in/script"),
            folder,
            {
                "script": Path(__file__).with_name("ram.sh"),
                **{name: (BUILD / name).resolve() for name in names},
            },
        )
        plan.engine.run(job, LOGS / "bench-ram.log")
        kernel = ("-kernel", str(BUILD / "vmlinuz"), "-initrd", str(folder / "initramfs"))
        command_line = ("-append", f"{config.boot.cmdline} rdinit=/sbin/init")
        return [
            _measure("as built", folder / "built"),
            _measure(
                "everything in the initramfs",
                folder / "initramfs-only",
                bios=True,
                extra=(*kernel, *command_line),
            ),
        ]


def _measure(what: str, folder: Path, **hardware: Any) -> Usage:
    with Machine(BUILD / "disk.img", folder, memory_mib=MEMORY_MIB, **hardware) as machine:
        machine.wait_for_login(BOOT_TIMEOUT_S)
        return Usage(what, memory_used_mib(machine))


def memory_used_mib(machine: Machine) -> float:
    """MiB of a machine's memory that can't be used for anything else."""
    lines = machine.succeed("cat /proc/meminfo").splitlines()
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return (kib["MemTotal"] - kib["MemAvailable"]) / 1024
