"""`inv doctor`: what this machine has of what Belay needs."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from builder.core.arch import ARCHES, X86_64, Arch
from builder.core.cache import KEEP_MIB
from builder.core.config import MIB, load_config
from builder.core.errors import UserError
from builder.core.git import git
from builder.core.host import TESTS_USE, install_command, missing_programs
from builder.core.output import say, show_json
from builder.core.paths import CACHE, PROJECT
from builder.core.progress import human_size
from builder.disk.boards import board_of

USES = {
    "dot": "inv graph --format svg",
    "minisign": "a test of signatures",
    "nginx": "tests with a web server",
    **{arch.qemu: f"inv qemu, release.test, site.test for {arch.name}" for arch in ARCHES.values()},
    "ssh": "inv upload to another machine, release.test, site.test",
    "ssh-keygen": "tests of SSH",
    "sshd": "a test of inv upload",
}
FREE_MIB = 2048  # a disk image, its parts, and the package archive


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `state` is ok, missing (some tasks can't run) or wrong."""

    subject: str
    state: str
    found: str
    remedy: str = ""


def findings() -> Iterator[Finding]:
    """Look at everything, quickest first."""
    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")
    machine = platform.machine()
    yield (
        Finding("machine", "ok", machine)
        if machine in ARCHES
        else Finding("machine", "wrong", machine, f"build on one of: {', '.join(ARCHES)}")
    )
    free_mib = shutil.disk_usage(PROJECT).free // MIB
    yield (
        Finding("disk space", "ok", f"{free_mib} MiB free")
        if free_mib >= FREE_MIB
        else Finding("disk space", "wrong", f"{free_mib} MiB free", f"make {FREE_MIB} MiB free")
    )
    yield _git()
    engine, arch = "auto", X86_64
    try:
        config = load_config()
        engine, arch = config.build.engine, ARCHES[config.alpine.arch]
        for each in config.each_arch():
            board_of(each)
    except UserError as error:
        yield Finding("image.toml", "wrong", str(error), "correct it there")
    else:
        yield Finding("image.toml", "ok", f"{config.os.name} {config.os.version}")
    yield _container(engine, arch)
    yield _virtual_machines(arch)
    yield _other_programs()
    yield _cache()


def _container(wanted: str, arch: Arch) -> Finding:
    """Whether steps can run in the engine that image.toml asks for."""
    from builder.engines.choose import ENGINES, candidates

    problem = UserError("there is no engine")
    try:
        names = candidates(wanted, arch.name)
    except UserError as error:
        names, problem = [], error
    for name in names:
        try:
            return Finding("container", "ok", ENGINES[name]().check())
        except UserError as error:
            problem = error
    return Finding("container", "wrong", problem.found, problem.hint)


def _virtual_machines(arch: Arch) -> Finding:
    """Only `inv qemu` and the VM tests need them, so what is missing is no mistake."""
    from builder.vm.hardware import accelerator, firmware

    program = shutil.which(arch.qemu)
    if program is None:
        remedy = install_command([arch.qemu])
        return Finding("virtual machines", "missing", f"no {arch.qemu}", remedy)
    try:
        firmware(arch)
    except UserError as error:
        return Finding("virtual machines", "missing", "no UEFI firmware", str(error))
    by_kvm = "kvm" in accelerator(program, arch)
    how = "by KVM" if by_kvm else "by emulation, as KVM doesn't work here: slower"
    return Finding("virtual machines", "ok", f"{arch.name}, {how}")


def _git() -> Finding:
    """Releases are of git tags, and what git ignores doesn't count."""
    try:
        version = git("--version") or ""
        git("rev-parse", "--show-toplevel")
    except UserError as error:
        return Finding("git", "missing", f"{error.found}: no releases can be made", error.hint)
    return Finding("git", "ok", version.removeprefix("git version "))


def _other_programs() -> Finding:
    """What single tasks need, and the tests."""
    subject = "other programs"
    if missing := missing_programs(TESTS_USE):
        found = f"no {', '.join(missing)}: {'; '.join(USES[name] for name in missing)}"
        return Finding(subject, "missing", found, install_command(missing))
    return Finding(subject, "ok", "all that tasks and tests use")


def _cache() -> Finding:
    """How much the cache holds, and how it becomes smaller."""
    from builder.core.cache import size_of_all

    size = size_of_all()
    smaller = f"; ./inv clean --keep {KEEP_MIB} makes it smaller" if size > KEEP_MIB * MIB else ""
    return Finding("cache", "ok", f"{human_size(size)} in {CACHE}{smaller}")


@task(help={"json": "print the findings as JSON"})
def doctor(c: Context, json: bool = False) -> None:
    """Check that this machine has what Belay needs."""
    found = list(findings())
    if json:
        show_json([asdict(item) for item in found])
    for item in [] if json else found:
        say(f"{item.state:8} {item.subject:18} {item.found}")
        if item.remedy:
            say(f"{'':8} {'':18} -> {item.remedy}")
    if any(item.state == "wrong" for item in found):
        raise Exit(code=1)
