"""What `belay status` tells of a node: of this boot, its disk and its clock, and of updates."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from updater.contract import TRIAL
from updater.grubenv import BootState, boots_next
from updater.memory import LOST, Memory
from updater.node import Node

SOFTWARE = "Software Watchdog"  # as the kernel calls softdog
CLOCKS = {
    "server": "a time server keeps it right",
    "hardware": "from the hardware clock; no time server keeps it right",
    "release": "no hardware clock knew the time, and no time server keeps it right",
}


def look(node: Node, memory: Memory) -> tuple[dict[str, Any], list[str]]:
    """What is known, and the same in lines for people. Raises UpdateError."""
    from updater.site import Site

    its = Site(node, memory, print)
    state = node.boot.read()
    tried = memory.tried_before()
    rejected = tried.rejected if tried else ""
    if not rejected and state.why != "none":
        rejected = f"{LOST}: {state.why}"
    about_data = [f"data/belay/{name} was damaged, and is put aside" for name in memory.damaged()]
    if kept := memory.volatile_files:
        about_data.append(
            f"/data can't be written: {', '.join(kept)} of data/belay last until the next boot"
        )
    twins = [
        f"{twin} has the GUID of the slot that runs, too: take its disk out, or give it other GUIDs"
        for twin in node.twins
    ]
    result = {
        "system": node.system._asdict(),
        "slot": node.slot,
        "mode": node.mode,
        "order": state.order,
        "last_good": state.last_good,
        "slots": {name: slot._asdict() for name, slot in state.slots.items()},
        "channel": node.settings.channel,
        "url": node.settings.url,
        "tried": tried._asdict() if tried else None,
        "boots_next": boots_next(state),
        "rejected": rejected,
        "again_in": tried.again_in(memory.clock()) if tried else None,
        "health": memory.volatile("health"),
        "rescue": memory.volatile("rescue").get("what"),
        "asked": memory.volatile("asked"),
        "name": node.name,
        "no_ssh": node.no_ssh,
        "site": its.applied(),
        "site_rejected": its.rejected(),
        "confirmed": node.confirmed,
        "starting": node.starting,
        "disk": node.disk,
        "clock": "server" if memory.clock_is_kept() else node.clock,
        "watchdog": node.watchdog,
        "warnings": [*node.warnings, *about_data, *twins],
    }
    shown = dict(result)
    for name in ("health", "asked"):
        if noted := memory.volatile(name):
            shown[name] = {**noted, "ago": _in_words(memory.clock() - noted["time"])}
    return result, [*_about_node(node, state, shown), *_about_updates(node, state, shown)]


def _about_node(node: Node, state: BootState, result: Mapping[str, Any]) -> Iterator[str]:
    system = node.system
    # A trial ends when the slot is confirmed, and the boot goes on.
    how = state.slots[node.slot].state if node.mode == TRIAL else node.mode
    yield f"{system.os} {system.version} ({system.arch}) runs in slot {node.slot} ({how})"
    if rescue := result["rescue"]:
        yield f"this boot is a rescue: {rescue}"
    for name, slot in state.slots.items():
        yield f"slot {name}: {slot.state}, {slot.tries} tries left"
    if (then := result["boots_next"]) != node.slot:
        yield f"the next boot is of slot {then}" if then else "no slot is bootable: rescue is next"
    if health := result["health"]:
        yield f"{health['what']} ({health['ago']})"
    elif not result["confirmed"]:
        names = ", ".join(result["starting"])
        what = f"these services still start: {names}" if names else "its checks come next"
        yield f"this boot is not confirmed yet: {what}"
    yield _about_disk(result["disk"])
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    yield f"clock: {now}; {CLOCKS[result['clock']]}"
    if dog := result["watchdog"]:
        but = "; but not where the kernel itself hangs" if dog["name"] == SOFTWARE else ""
        yield f"watchdog {dog['name']}: a hang ends in a reset after {dog['timeout_s']} s{but}"
    else:
        yield "no watchdog: where the kernel hangs, somebody has to switch this machine off and on"
    if node.name:
        yield f"node {node.name}"
    if without := result["no_ssh"]:
        yield f"no SSH: the node's files are without {' and '.join(without)}"
    if done := result["site"]:
        how = "" if done["well"] else f", which failed: {done['why']}"
        yield f"site {done['version']}, {len(done['changed'])} changes at this boot{how}"
    if gone := result["site_rejected"]:
        yield f"site {gone['version']} was rejected: {gone['why']}"
    for warning in result["warnings"]:
        yield f"warning: {warning}"


def _about_disk(disk: Mapping[str, Any]) -> str:
    size, data, free = (
        "?" if disk[name] is None else _in_units(disk[name])
        for name in ("size", "data", "data_free")
    )
    room = f"/data has {free} free, of {data}" if disk["data"] else "/data can't be used"
    return f"disk {disk['name']} of {size}; {room}"


def _in_units(size: int) -> str:
    gib = size / (1 << 30)
    return f"{gib:.1f} GiB" if gib >= 1 else f"{size >> 20} MiB"


def _about_updates(node: Node, state: BootState, result: Mapping[str, Any]) -> Iterator[str]:
    settings, tried = node.settings, result["tried"]
    if settings.url:
        yield f"channel {settings.channel} of {settings.url}"
    else:
        yield "no server is set: url in [update] of image.toml, or in the node's settings.json"
    if asked := result["asked"]:
        yield f"asked {asked['ago']}: {asked['what']}"
    if result["rejected"]:
        version = tried["version"] if tried else "before this one"
        yield f"release {version} was rejected: {result['rejected']}"
        if (left := result["again_in"]) is not None:
            yield f"something could not be reached: it is tried again in {int(left) // 60} min"
    elif tried and state.slots[node.other].state == TRIAL and tried["slot"] == node.other:
        yield f"release {tried['version']} is installed in slot {node.other}: reboot to try it"


def _in_words(seconds: float) -> str:
    """How long ago something was. A node's clock may have been set since then."""
    minutes = int(seconds) // 60
    if minutes < 0:
        return "in the future, by this clock"
    if minutes < 120:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 48 * 60 else f"{minutes // 1440} days ago"
