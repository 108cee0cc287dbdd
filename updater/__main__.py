"""`belay`: what runs on this node, what there is to update, and what became of it."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from updater.contract import (
    EXIT_NOT_YET,
    RUN_GAVE_WAY,
    RUN_LOCK,
    RUN_NODE,
    RUN_WAITING,
    TRIAL,
)
from updater.errors import GaveWay, Unreachable, UpdateError, printable
from updater.grubenv import BootState, boots_next
from updater.memory import LOST, Memory, headline
from updater.node import Node, find_node

if TYPE_CHECKING:  # what only some commands need is imported there: a small machine is slow at it
    from updater.formats import Manifest
    from updater.update import Updater

PATIENCE_S, FOR_EVER = 60.0, float("inf")
LOG_ERROR, LOG_INFO = 3, 6  # the kernel's levels: a quiet console shows errors
SOFTWARE = "Software Watchdog"  # as the kernel calls softdog
CLOCKS = {
    "server": "a time server keeps it right",
    "hardware": "from the hardware clock; no time server keeps it right",
    "release": "no hardware clock knew the time, and no time server keeps it right",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    options = _parser().parse_args(words)
    try:
        code = _run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(options: argparse.Namespace) -> int:
    try:
        if options.run in (install, settings):
            result: dict[str, Any] = options.run(options)
        else:
            node = find_node(Path(options.root))
            result = options.run(node, Memory(node), options)
    except BrokenPipeError:
        raise
    except (UpdateError, OSError) as error:
        if options.json:
            print(json.dumps({"error": str(error)}))
        else:
            print(f"belay: {error}", file=sys.stderr)
        return EXIT_NOT_YET if isinstance(error, Unreachable) else 1
    if options.json:
        print(json.dumps(result))
    return int(result.get("code", 0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="belay", description=__doc__)
    parser.add_argument("--root", default="/", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, about: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=about, description=about)
        one.add_argument("--json", action="store_true", help="answer in JSON")
        one.set_defaults(run=run)
        return one

    command(
        "status", status, "show what runs, the state of both slots, and why a release was rejected"
    )
    check_ = command("check", check, "ask whether there is a newer release")
    update_ = command("update", update, "bring a release into the other slot, to be tried next")
    pull_ = command("pull", pull, "update if it is time for it, and reboot (a service does it)")
    pull_.set_defaults(to="", reinstall=False, again=False, reboot=True)
    for one in (check_, update_, pull_):
        one.add_argument(
            "--from", dest="place", default="", help="a URL, a folder or a tar to take it from"
        )
    update_.add_argument("--to", default="", metavar="VERSION", help="this release")
    update_.add_argument("--reinstall", action="store_true", help="the running release once more")
    update_.add_argument("--reboot", action="store_true", help="reboot into it at once")
    update_.add_argument("--again", action="store_true", help="even if it was rejected before")
    command("confirm", confirm, "declare the running slot good")
    command("rollback", rollback, "go back to the other slot at the next boot")
    history_ = command("history", history, "show what happened, the newest last")
    history_.add_argument(
        "--log", action="store_true", help="what the last two boots said that were unhealthy"
    )
    install_ = command("install", install, "write this system, which came by network, to a disk")
    install_.add_argument("disk", help="the disk, such as /dev/sda")
    install_.add_argument("again", nargs="?", default="", help="the same, if it holds data")
    node_ = command("node", own_files, "show what this node was told, or write its own files")
    node_.add_argument("--write", default="", metavar="FILE", help="a volume; - for what comes in")
    settings_ = command("settings", settings, "show what this node goes by")
    settings_.add_argument("--resolve", action="store_true", help="write it for the services")
    command("boottime", boot_time, "show where the seconds of this boot went")
    site_ = command("site", site, "try the site's newest configuration, keep it or go back")
    site_.add_argument("--boot", action="store_true", help="apply the good one (a service does it)")
    site_.set_defaults(place="")
    about = "look at the health of this boot and act on it (a service does it)"
    command("gate", run_gate, about).add_argument("--overdue", default="", help=argparse.SUPPRESS)
    return parser


# --- commands ---


def status(node: Node, memory: Memory, options: argparse.Namespace) -> dict[str, Any]:
    """See the parser."""
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
    if not options.json:
        for name in ("health", "asked"):
            if noted := memory.volatile(name):
                noted["ago"] = _in_words(memory.clock() - noted["time"])
                result[name] = noted
        for line in (*_about_node(node, state, result), *_about_updates(node, state, result)):
            print(printable(line))
    return result


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


def check(node: Node, memory: Memory, options: argparse.Namespace) -> dict[str, Any]:
    """See the parser."""
    channel = _updater(node, memory, options).channel()
    news, tried = channel.version != node.system.version, memory.tried_before()
    what = "is there" if news else "is running already"
    if news and tried and tried.version == channel.version and tried.rejected:
        why = headline(tried.rejected)
        what = f"is there, but was rejected before: {why}; to try it now: belay update --again"
    _say(options, f"release {channel.version} {what}")
    return {"version": channel.version, "news": news}


def update(node: Node, memory: Memory, options: argparse.Namespace) -> dict[str, Any]:
    """See the parser."""
    by_service = options.run is pull
    with _alone(node, 0 if by_service and not options.place else PATIENCE_S):
        updater = _updater(node, memory, options, _giving_way(node))
        manifest = _wanted(updater, options)
        if manifest is None:
            _say(options, f"release {node.system.version} is running already")
            return {"version": node.system.version, "installed": False}
        version, tried = manifest.version, memory.tried_before()
        by_itself = not options.to and not options.reinstall
        known = tried if tried and tried.version == version and by_itself else None
        left = known.again_in(memory.clock()) if known else None
        if known and known.rejected and left != 0 and not options.again:
            when = f"in {int(left) // 60 + 1} min" if left else "never"
            _say(
                options,
                f"release {version} was rejected before ({headline(known.rejected)}), and is tried "
                f"again by itself {when}; to try it now: belay update --again",
            )
            return {"version": version, "installed": False}
        waits = known and node.boot.read().slots[node.other].state == TRIAL
        if not waits:
            updater.install(manifest)
    what = "is installed already" if waits else f"is in slot {node.other}"
    _say(options, f"release {version} {what}: reboot to try it")
    # By the service once in a boot: where that didn't help, more of it won't.
    if options.reboot and not (by_service and memory.volatile("rebooting")):
        memory.note_volatile("rebooting", version)
        _reboot()
    return {"version": version, "installed": True}


def _wanted(updater: Updater, options: argparse.Namespace) -> Manifest | None:
    """The release that is to be installed; None where it runs already."""
    from updater.formats import VERSION, version_key

    running = updater.node.system.version
    if options.reinstall:
        return updater.manifest(running)
    if not options.to:
        offer = updater.offered()
        return offer.manifest if offer.news else None
    if not VERSION.fullmatch(options.to):
        raise UpdateError(f"{options.to!r} is no version such as 1.2.3")
    if version_key(options.to) < version_key(running):
        raise UpdateError(
            f"{options.to} is older than {running}: only a signed order of the channel goes back; "
            "belay rollback takes the other slot"
        )
    return updater.manifest(options.to) if options.to != running else None


def confirm(node: Node, memory: Memory, options: argparse.Namespace) -> dict[str, Any]:
    """See the parser."""
    from updater import gate

    with _alone(node):
        gate.confirm_by_hand(node, memory, lambda text: _say(options, text))
    _say(options, f"the next boot is of slot {boots_next(node.boot.read())}")
    return {"slot": node.slot}


def rollback(node: Node, memory: Memory, options: argparse.Namespace) -> dict[str, Any]:
    """See the parser."""
    from updater import gate

    with _alone(node):
        gate.roll_back(node, memory, lambda text: _say(options, text))
    return {"slot": node.other}


def history(node: Node, memory: Memory, options: argparse.Namespace) -> dict[str, Any]:
    """See the parser."""
    if options.log:
        return _logs(memory, options)
    events = memory.history()
    if not options.json:
        if not events:
            print("nothing happened yet, as far as this node remembers")
        for event in events:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
            # One line for each event; all of a reason is in the JSON, and the last in the status.
            reason = f": {headline(event.reason)}" if event.reason else ""
            print(f"{when}  {event.what:9}  {event.version} in slot {event.slot}{reason}")
    return {"events": [event._asdict() for event in events]}


def _logs(memory: Memory, options: argparse.Namespace) -> dict[str, Any]:
    from updater.gate import LOG, LOG_BEFORE, LOGS_MAX

    logs = [memory.read(name, LOGS_MAX).decode(errors="replace") for name in (LOG_BEFORE, LOG)]
    logs = [text for text in logs if text]
    for text in logs or ["no boot was unhealthy, as far as this node remembers"]:
        for line in text.splitlines():
            _say(options, line)
    return {"logs": logs}


def site(node: Node, memory: Memory, options: argparse.Namespace) -> dict[str, Any]:
    """See the parser."""
    from updater.site import Site

    say = print if options.boot and not options.json else _say_on_console
    with _alone(node, FOR_EVER if options.boot else 0 if options.run is pull else PATIENCE_S):
        its = Site(node, memory, say)
        if options.boot:
            done = its.boot()
        else:
            done = its.update(_updater(node, memory, options, _giving_way(node)), _reboot)
    if done is None:
        _say(options, its.waits() or "the site has nothing new for this node")
        return {"version": "", "changed": []}
    what = "is applied" if done.well else f"failed: {done.why}"
    _say(options, f"site {done.version} {what}, {len(done.changed)} changes")
    return {**done._asdict(), "code": 0 if done.well else 1}


def install(options: argparse.Namespace) -> dict[str, Any]:
    """See the parser."""
    from updater.install import install as write_to

    def say(text: str) -> None:
        _say(options, text)

    size = write_to(Path(options.root), options.disk, options.again, say)
    say(f"{options.disk} has both slots: reboot from it")
    return {"disk": options.disk, "size": size}


def own_files(node: Node, memory: Memory, options: argparse.Namespace) -> dict[str, Any]:
    """See the parser."""
    if options.write:
        from updater.volume import write_volume

        try:
            came = options.write == "-"
            data = sys.stdin.buffer.read() if came else Path(options.write).read_bytes()
            partition = write_volume(node, data)
        except OSError as error:
            raise UpdateError(f"{options.write}: {error.strerror}") from None
        memory.note("node files", node.system.version, node.slot, f"written to {partition}")
        _say(options, f"{partition} has the node's files: reboot to use them")
        return {"written": str(partition)}
    folder = node.root / RUN_NODE
    files = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    _say(options, f"node {node.name or '(no name)'}, from the files: {' '.join(files) or 'none'}")
    for warning in node.warnings:
        _say(options, f"warning: {warning}")
    return {"name": node.name, "files": files, "warnings": node.warnings}


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """See the parser."""
    from updater.node import add_warning
    from updater.settings import read_settings, resolve_settings

    root = Path(options.root)
    given, wrong = (resolve_settings if options.resolve else read_settings)(root)
    for text in wrong if options.resolve else ():
        add_warning(root, text)
    if not options.resolve:
        for name, value in given._asdict().items():
            _say(options, f"{name} = {json.dumps(value)}")
    return given._asdict()


def boot_time(node: Node, memory: Memory, options: argparse.Namespace) -> dict[str, Any]:
    """See the parser."""
    from updater.boottime import boot_spans

    spans = boot_spans(node.root)
    if not options.json:
        for span in spans:
            print(f"{span.start:7.2f} s  {span.seconds:6.2f} s  {span.name}")
    return {"spans": [span._asdict() for span in spans]}


def run_gate(node: Node, memory: Memory, options: argparse.Namespace) -> dict[str, Any]:
    """See the parser."""
    from updater import gate

    if options.overdue:  # whoever has the lock may be what hangs
        gate.overdue(node, memory, options.overdue)
        return {}
    with _alone(node, FOR_EVER):
        well = gate.gate(node, memory, _say_on_console, _reboot, _whisper)
    return {"well": well, "code": 0 if well else 1}


def pull(node: Node, memory: Memory, options: argparse.Namespace) -> dict[str, Any]:
    """See the parser. Whoever plugs in a stick doesn't want to wait for the window."""
    if not options.place and not _in_window(node.settings.window, time.localtime().tm_hour):
        return {"version": node.system.version, "installed": False}
    result: dict[str, Any] = {"version": node.system.version, "installed": False}
    failures: list[UpdateError] = []

    def failed(error: UpdateError) -> None:
        failures.append(error)
        if str(error) not in [event.reason for event in memory.history()[-2:]]:  # not every hour
            memory.note("failed", node.system.version, node.other, str(error))

    try:
        result = update(node, memory, options)
    except GaveWay:
        raise
    except UpdateError as error:
        failed(error)
    # The site needs no release: it comes although that can't be had.
    if node.settings.site and not options.place and not result["installed"]:
        try:
            site(node, memory, argparse.Namespace(**vars(options), boot=False))
        except GaveWay:
            raise
        except UpdateError as error:
            failed(error)
    for further in failures[1:]:
        _whisper(str(further))
    if failures:
        raise failures[0]
    return result


# --- what they share ---


def _updater(
    node: Node,
    memory: Memory,
    options: argparse.Namespace,
    look: Callable[[], None] = lambda: None,
) -> Updater:
    from updater.source import open_source
    from updater.update import Updater

    place = options.place or node.settings.url
    if not place:
        more = "" if options.run is site else ", or give --from"
        raise UpdateError(f"no server is set; set url in [update] of image.toml{more}")

    def sleep(seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            look()
            time.sleep(min(left, 1))

    how: dict[str, Any] = {}
    if "://" in place:
        from updater.server import access_of

        how = {"access": access_of(node), "say": _whisper, "look": look, "sleep": sleep}
    return Updater(node, open_source(place, **how), memory, _progress(options), sleep)


def _progress(options: argparse.Namespace) -> Any:
    """Shows how far a download is, once a second, where somebody looks at it."""
    start, shown = time.monotonic(), 0.0

    def show(done: int, total: int, fetched: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if options.json or not sys.stdout.isatty() or (now - shown < 1 and done < total):
            return
        shown = now
        rate = fetched / max(now - start, 0.1)
        left = (now - start) / max(done, 1) * (total - done)
        end = "\n" if done == total else ""
        print(f"\r{done * 100 // total:3} %  {rate / 1e6:5.1f} MB/s  {left:4.0f} s left ", end=end)
        sys.stdout.flush()

    return show


def _in_words(seconds: float) -> str:
    """How long ago something was. A node's clock may have been set since then."""
    minutes = int(seconds) // 60
    if minutes < 0:
        return "in the future, by this clock"
    if minutes < 120:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 48 * 60 else f"{minutes // 1440} days ago"


def _in_window(window: str, hour: int) -> bool:
    """Whether `hour` is in a window such as 22-4; no window means always."""
    if not window:
        return True
    begin, end = (int(part) for part in window.split("-"))
    return begin <= hour < end if begin <= end else hour >= begin or hour < end


@contextmanager
def _alone(node: Node, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Let one process at a time change slots and boot state.

    Who waits shows that, and who only waits for a server gives way then: see `_giving_way`. Without
    patience nobody is asked to. Raises UpdateError where it takes too long.
    """
    deadline, waited = time.monotonic() + patience_s, False
    with _lock_file(node, RUN_LOCK) as lock, _lock_file(node, RUN_WAITING) as waiting:
        while not _locked(lock, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise UpdateError("belay is at work already, in another process")
            waited = _locked(waiting, fcntl.LOCK_SH)
            time.sleep(0.1)
        fcntl.flock(waiting, fcntl.LOCK_UN)
        if waited:
            (node.root / RUN_GAVE_WAY).unlink(missing_ok=True)
        yield


def _giving_way(node: Node) -> Callable[[], None]:
    """What raises GaveWay once another process waits for its turn.

    One that was given way to, and still waits long after, is hung or stopped: it is passed over.
    """
    gave_way = node.root / RUN_GAVE_WAY

    def look() -> None:
        with _lock_file(node, RUN_WAITING) as waiting:
            if _locked(waiting, fcntl.LOCK_EX):
                gave_way.unlink(missing_ok=True)
                return
        now = time.monotonic()
        try:
            since = float(gave_way.read_text())
        except (OSError, ValueError):
            since = now
            gave_way.write_text(str(now))
        if now - since <= 2 * PATIENCE_S:
            raise GaveWay("another belay has its turn first; this goes on later from here")

    return look


def _lock_file(node: Node, name: str) -> IO[str]:
    place = node.root / name
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = place.open("w")
    place.chmod(0o600)  # who can open it can hold it
    return file


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _say(options: argparse.Namespace, text: str) -> None:
    if not options.json:
        print(printable(text), flush=True)


def _say_on_console(text: str) -> None:
    """To the kernel's log, and so to the console, too."""
    text = printable(text)
    print(text, flush=True)
    # Where it was read just now, the console needn't show it again.
    _log(text, LOG_INFO if sys.stdout.isatty() else LOG_ERROR)


def _log(text: str, level: int) -> None:
    try:
        with Path("/dev/kmsg").open("w") as log:
            for line in text.splitlines():
                print(f"<{level}>belay: {line}", file=log, flush=True)
    except OSError:
        return


def _whisper(text: str) -> None:
    """To the kernel's log alone, for who looks there."""
    _log(text, LOG_INFO)


def _reboot() -> None:
    import subprocess

    subprocess.run(["reboot"], check=False)


if __name__ == "__main__":
    sys.exit(main())
