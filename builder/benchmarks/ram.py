"""How much memory a node needs, beside the same system with everything in its initramfs."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invoke.context import Context

from builder.benchmarks.script import built, run_script
from builder.core.config import load_config
from builder.core.paths import BUILD, CACHE
from builder.core.progress import Progress
from builder.steps.plan import build, plan_for
from builder.vm.machine import Machine

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
        run_script(plan, "ram", folder, built("root.squashfs", "modloop.squashfs"), {})
        kernel = with_kernel(folder / "initramfs", config.cmdline)
        return [
            _measure("as built", folder / "built"),
            _measure("everything in the initramfs", folder / "initramfs-only", **kernel),
        ]


def _measure(what: str, folder: Path, **hardware: Any) -> Usage:
    with Machine(BUILD / "disk.img", folder, memory_mib=MEMORY_MIB, **hardware) as machine:
        machine.wait_for_login(BOOT_TIMEOUT_S)
        return Usage(what, memory_used_mib(machine))


def with_kernel(initramfs: Path, cmdline: str) -> dict[str, Any]:
    """A machine whose firmware is given the kernel of the build, as `Machine` takes it."""
    words = ("-kernel", str(BUILD / "vmlinuz"), "-initrd", str(initramfs), "-append", cmdline)
    return {"bios": True, "extra": words}


def memory_used_mib(machine: Machine) -> float:
    """MiB of a machine's memory that can't be used for anything else."""
    meminfo = machine.succeed("cat /proc/meminfo")
    # Services may say something on the console meanwhile.
    kib = {
        name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB$", meminfo, re.MULTILINE)
    }
    return (kib["MemTotal"] - kib["MemAvailable"]) / 1024
