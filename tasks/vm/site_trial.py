"""Tries the site on a node in a virtual machine, and judges from outside what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tomli

from tasks.core.errors import UserError
from tasks.core.files import write_atomically
from tasks.core.output import say
from tasks.nodes.identity import PRIVATE
from tasks.releases.site import FOLDER, build_site
from tasks.vm.machine import Machine, MachineError

APPLY_TIMEOUT_S = 300
TREE = "/run/belay/site"
STICK = "BELAYSITE"
ARCHIVE = "site.tgz"  # short, as the stick's file system wants it
_BRING = f"""
modprobe -a usb-storage sd_mod vfat
until volume=$(findfs LABEL={STICK}); do sleep 0.2; done
mkdir -p /tmp/stick {TREE} && mount -t vfat -o ro "$volume" /tmp/stick
tar -xzf /tmp/stick/{ARCHIVE} -C {TREE} && umount /tmp/stick
"""
# What a second apply may not touch: files, wanted packages, services.
_STATE = "cat /etc/apk/world; ls /run/openrc/started; ls -R /etc/runlevels"
_TOUCHED = (
    "find /etc /srv /usr /lib /root /home /opt -newer /tmp/before 2>/dev/null | "
    "grep -v __pycache__ | head -n 5"  # what Python compiles, it compiles when it likes to
)


def nodes_of_site(only: str = "") -> list[str]:
    """The nodes of the inventory, or `only` one of them. Raises UserError where there is none."""
    nodes = list(tomli.loads((FOLDER / "inventory.toml").read_text()).get("nodes", {}))
    if not nodes or (only and only not in nodes):
        wanted = f"no node {only}; it has: {', '.join(nodes)}" if only else "no nodes"
        raise UserError(f"{FOLDER / 'inventory.toml'} has {wanted}")
    return [only] if only else nodes


def try_site(
    disks: Mapping[str, Path], nodes: Sequence[str], folder: Path
) -> dict[str, dict[str, str]]:
    """Try the site on nodes of the inventory, with each disk of a release.

    Returns for each node and release what was wrong. `folder` is for what that takes.
    """
    archive = folder / ARCHIVE
    write_atomically(archive, build_site())
    matrix: dict[str, dict[str, str]] = {}
    for node in nodes:
        stick = PRIVATE / node
        if not stick.is_dir():
            stick = folder / node
            stick.mkdir()
            (stick / "name").write_text(f"{node}\n")
        for release, disk in disks.items():
            say(f"{node} on {release} ...")
            wrong = _try_one(disk, node, stick, archive, folder / f"{node}-{release}")
            matrix.setdefault(node, {})[release] = wrong
    return matrix


def _try_one(disk: Path, node: str, stick: Path, archive: Path, folder: Path) -> str:
    """Boot `disk` as `node`, whose files are in `stick`, and apply the site twice.

    Returns what was wrong with the site: nothing, if it went well. The log lies in `folder`.
    """
    try:
        with Machine(disk, folder / "machine", bios=True, usb=stick) as machine:
            machine.wait_for_login()
            machine.wait_until_confirmed()
            bring_site(machine, archive, folder / "site")
            return _judge(machine, node)
    except MachineError as error:
        return f"the machine failed: {error}"


def bring_site(machine: Machine, archive: Path, scratch: Path) -> None:
    """Unpack a site on a machine, without a network; `scratch` becomes the stick that brings it."""
    scratch.mkdir(parents=True)
    (scratch / ARCHIVE).write_bytes(archive.read_bytes())
    machine.attach_usb(scratch, STICK)
    machine.succeed(_BRING)


def _judge(machine: Machine, node: str) -> str:
    apply = f"{TREE}/apply {node}"
    code, said = machine.execute(apply, APPLY_TIMEOUT_S)
    if code:
        return f"apply failed: {said.strip()[-500:]}"
    before = machine.execute(_STATE)[1]
    machine.succeed("touch /tmp/before && sleep 1")
    code, said = machine.execute(apply, APPLY_TIMEOUT_S)
    if code:
        return f"the second apply failed: {said.strip()[-500:]}"
    if touched := machine.execute(_TOUCHED)[1].split():
        return f"a second apply changed {' '.join(touched)}"
    if machine.execute(_STATE)[1] != before:
        return "a second apply changed packages or services"
    if not machine.execute(f"test -x {TREE}/check")[0]:
        try:
            machine.wait_until_succeeds(f"{TREE}/check {node}", APPLY_TIMEOUT_S)
        except MachineError as error:
            return f"check failed: {str(error)[-500:]}"
    return ""
