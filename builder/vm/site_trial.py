"""Tries the site on a node in a virtual machine, and judges from outside what became of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from builder.core.arch import ARCHES, Arch
from builder.core.config import Config
from builder.core.errors import UserError
from builder.core.files import read_toml
from builder.core.output import say
from builder.core.paths import BUILD
from builder.core.progress import Progress
from builder.nodes.identity import PRIVATE
from builder.releases.make import trusted_keys
from builder.releases.site import SITE_FOLDER, build_site
from builder.releases.store import Store, unpack_disk
from builder.vm.machine import Machine, MachineError
from builder.vm.release_trial import Tell, tried
from builder.vm.remote import Remote, Stick

BOOT_TIMEOUT_S = 900
APPLY_TIMEOUT_S = 300
CHECKS_TIMEOUT_S = 900
SITE_TREE = "/run/belay/site"
CHECKS = Path(__file__).with_name("health.sh")
# What a second apply may not touch: files, wanted packages, services.
_STATE = "cat /etc/apk/world; ls /run/openrc/started; ls -R /etc/runlevels"
_TOUCHED = (
    "find /etc /srv /usr /lib /root /home /opt -newer /tmp/before 2>/dev/null | "
    "grep -v __pycache__ | head -n 5"  # what Python compiles, it compiles when it likes to
)


def nodes_of_site(only: str = "") -> list[str]:
    """The nodes of the inventory, or `only` one of them. Raises UserError where there is none."""
    nodes = list(read_toml(SITE_FOLDER / "inventory.toml").get("nodes", {}))
    if not nodes or (only and only not in nodes):
        wanted = f"no node {only}; it has: {', '.join(nodes)}" if only else "no nodes"
        raise UserError(f"{SITE_FOLDER / 'inventory.toml'} has {wanted}")
    return [only] if only else nodes


def has_nodes() -> bool:
    """Whether the inventory has nodes on which the site could be tried."""
    return bool(read_toml(SITE_FOLDER / "inventory.toml").get("nodes"))


def try_site(
    arch: Arch, disks: Mapping[str, Path], nodes: Sequence[str], folder: Path, progress: Progress
) -> dict[str, dict[str, str]]:
    """Try the site on nodes of the inventory, with each disk of a release, all of `arch`.

    Returns for each node and release what was wrong. `folder` is for what that takes.
    """
    archive = build_site()
    matrix: dict[str, dict[str, str]] = {}
    for node in nodes:
        own = PRIVATE / node
        stick = Stick(folder / f"stick of {node}", node, own if own.is_dir() else None)
        for release, disk in disks.items():
            name = f"{node} on {release}"
            tell = partial(progress.stage, name)
            machine = Machine(
                disk, folder / f"{node}-{release}", bios=arch.has_bios, arch=arch, usb=stick.files
            )
            wrong = _try_one(machine, node, stick, archive, tell)
            progress.stopped(name)
            matrix.setdefault(node, {})[release] = wrong
    return matrix


def _try_one(machine: Machine, node: str, stick: Stick, archive: bytes, tell: Tell) -> str:
    """Boot a machine as `node` and apply the site twice.

    Returns what was wrong: nothing, if all went well.
    """
    try:
        with machine:
            remote = Remote(machine, stick)
            tell("booting")
            remote.wait_until_confirmed(BOOT_TIMEOUT_S)
            # A good slot is confirmed whatever its checks say.
            if wrong := unhealthy(remote):
                return f"the release is unhealthy without the site: {wrong}"
            bring_site(remote, archive)
            return _judge(remote, node, tell)
    except MachineError as error:
        return f"the machine failed: {error}"


def bring_site(remote: Remote, archive: bytes) -> None:
    """Unpack a site on a machine."""
    remote.succeed(f"mkdir -p {SITE_TREE} && tar -xzf - -C {SITE_TREE}", data=archive)


def unhealthy(remote: Remote) -> str:
    """Which health check fails on a machine, and why; nothing where it is healthy."""
    code, output = remote.run("sh -s", CHECKS_TIMEOUT_S, CHECKS.read_bytes())
    return (output.strip().splitlines() or ["no check could be run"])[-1] if code else ""


def _judge(remote: Remote, node: str, tell: Tell) -> str:
    apply = f"cd {SITE_TREE} && ./apply {node}"
    tell("applying the site")
    code, output = remote.run(apply, APPLY_TIMEOUT_S)
    if code:
        return f"apply failed: {output.strip()[-500:]}"
    before = remote.run(_STATE)[1]
    remote.succeed("touch /tmp/before && sleep 1")
    tell("applying it once more")
    code, output = remote.run(apply, APPLY_TIMEOUT_S)
    if code:
        return f"the second apply failed: {output.strip()[-500:]}"
    if touched := remote.run(_TOUCHED)[1].split():
        return f"a second apply changed {' '.join(touched)}"
    if remote.run(_STATE)[1] != before:
        return "a second apply changed packages or services"
    tell("checking")
    if wrong := unhealthy(remote):
        return f"unhealthy with the site: {wrong}"
    if remote.run(f"test -x {SITE_TREE}/check")[0]:
        return ""
    code, output = 1, ""
    deadline = time.monotonic() + APPLY_TIMEOUT_S
    while code and time.monotonic() < deadline:
        code, output = remote.run(f"{SITE_TREE}/check {node}", APPLY_TIMEOUT_S)
        if code:
            time.sleep(1)
    return f"check failed: {output.strip()[-500:]}" if code else ""


def report(matrix: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What became of the site, one line for each node and release."""
    return [
        f"{name:20} {release:12} {wrong or 'passed'}"
        for name, row in matrix.items()
        for release, wrong in row.items()
    ]


def require_tested(config: Config, store: Store, version: str) -> None:
    """Try a release, and the site with it on each node. Raises UserError where one is unhealthy."""
    refused = f"so {version} is not published: tested in [publish] asks for that"
    trial = tried(config, store, version)
    say(str(trial))
    if trial.rejected:
        raise UserError(refused)
    if not has_nodes():
        return
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="site-") as scratch, Progress() as progress:
        folder = Path(scratch)
        disk = folder / "release.img"
        unpack_disk(store, store.manifest(version, trusted_keys()), disk)
        arch = ARCHES[config.alpine.arch]
        matrix = try_site(arch, {version: disk}, nodes_of_site(), folder, progress)
    if any(row[version] for row in matrix.values()):
        raise UserError("\n".join([*report(matrix), refused]))
