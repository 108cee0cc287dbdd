"""How long a boot takes until the login, and what is in memory then, beside Alpine as it comes."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invoke.context import Context

from builder.benchmarks.ram import memory_used_mib, with_kernel
from builder.benchmarks.script import built, run_script
from builder.core.config import load_config
from builder.core.paths import BUILD, CACHE
from builder.core.progress import Progress
from builder.disk.layout import layout
from builder.releases.site import build_site
from builder.steps.plan import build, plan_for
from builder.vm.machine import Machine
from builder.vm.remote import Remote, Stick
from builder.vm.site_trial import SITE_TREE, bring_site

STOCK_SIZE_MIB = 512
BOOT_TIMEOUT_S = 600
TIMES = 7
NODE = "crag-1"  # of the example site: it has a web server


@dataclass(frozen=True)
class Boot:
    """Seconds from power-on to the login, and to a shell with all services up; MiB used then."""

    what: str
    seconds: float
    services_seconds: float
    mib: float


@dataclass(frozen=True)
class Idle:
    """Seconds of an apply that changes nothing, and of a Python that does nothing."""

    apply_seconds: float
    python_seconds: float


def boot_figures(c: Context, progress: Progress) -> tuple[list[Boot], Idle]:
    """Boot in several ways, one after the other; and how long an apply takes that changes nothing.

    Without firmware and GRUB, qemu loads the kernel itself: so Alpine as it comes can be booted in
    the same way.
    """
    config = load_config()
    build(c, "image", config)
    plan = plan_for(config, ["image"], progress)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        stock = folder / "stock"
        stock.mkdir()
        inputs = built("chroot.tar", "modules.tar")
        run_script(plan, "stock", stock, inputs, {"SIZE_MIB": str(STOCK_SIZE_MIB)})
        guid = layout(plan.config)["slot-a"].guid
        ours = f"{config.cmdline} gpt belay.slot=a belay.partuuid={guid} belay.mode=good"
        its = f"{config.cmdline} root=/dev/vda rootfstype=ext4 modules=ext4"
        image, direct = BUILD / "disk.img", BUILD / "initramfs"
        figures = [
            _boot(
                "stock Alpine", stock / "disk.img", folder, with_kernel(stock / "initramfs", its)
            ),
            _boot("Belay", image, folder, with_kernel(direct, ours)),
            _boot("Belay, BIOS and GRUB", image, folder, {"bios": True}),
            _boot("Belay, UEFI and GRUB", image, folder, {}),
        ]
        return figures, _idle_apply(folder)


def _boot(what: str, image: Path, folder: Path, hardware: dict[str, Any]) -> Boot:
    machine = Machine(image, folder / "machine", **hardware)
    start = time.monotonic()
    with machine:
        machine.wait_for_console("login: ", BOOT_TIMEOUT_S)
        seconds = time.monotonic() - start
        machine.type("\n")
        machine.wait_for_login()
        services_seconds = time.monotonic() - start
        return Boot(what, seconds, services_seconds, memory_used_mib(machine))


def _idle_apply(folder: Path) -> Idle:
    """On a node, the medians of several."""
    stick = Stick(folder / "stick", NODE)
    with Machine(BUILD / "disk.img", folder / "machine", bios=True, usb=stick.files) as machine:
        remote = Remote(machine, stick)
        remote.wait_until_confirmed(BOOT_TIMEOUT_S)
        bring_site(remote, build_site())
        remote.succeed(f"{SITE_TREE}/apply {NODE}")
        check = f"until {SITE_TREE}/check {NODE}; do sleep 1; done"
        remote.succeed(check, BOOT_TIMEOUT_S)
        idle = _seconds(remote, f"{SITE_TREE}/apply {NODE}")
        return Idle(idle, _seconds(remote, "python3 -c pass"))


def _seconds(remote: Remote, command: str) -> float:
    """The median of what a command takes, by the machine's own clock."""
    now = "cut -d' ' -f1 /proc/uptime"
    times = []
    for _ in range(TIMES):
        before, after = remote.succeed(f"{now}; {command} >/tmp/said; {now}").split()
        times.append(float(after) - float(before))
    return statistics.median(times)
