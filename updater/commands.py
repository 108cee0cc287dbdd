"""What `belay` can do on a node: each command with its options, and what became of it."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from updater.contract import RUN_NODE, TRIAL, arch_folder
from updater.errors import GaveWay, UpdateError
from updater.grubenv import boots_next
from updater.memory import Memory, headline
from updater.node import Node
from updater.turns import FOR_EVER, alone, giving_way

if TYPE_CHECKING:  # what only some commands need is imported there: a small machine is slow at it
    from updater.formats import Manifest
    from updater.update import Updater

Say = Callable[[str], None]


class Answer(NamedTuple):
    """What became of a command: for programs, in lines for people, and as exit code."""

    values: dict[str, Any]
    lines: tuple[str, ...] = ()
    code: int = 0


class Belay(NamedTuple):
    """A node, and who is told what goes on while a command works.

    `tell` reaches the person who called, `announce` the console too, `whisper` the kernel's log
    alone. `progress` is given the bytes that are done, all of them, and those that were fetched.
    """

    node: Node
    memory: Memory
    tell: Say
    announce: Say
    whisper: Say
    progress: Callable[[int, int, int], None]
    reboot: Callable[[], None]


def status(belay: Belay) -> Answer:
    """What runs, the state of both slots, and what was wrong."""
    from updater.status import look

    values, lines = look(belay.node, belay.memory)
    return Answer(values, tuple(lines))


def check(belay: Belay, source: str = "") -> Answer:
    """Ask whether there is a newer release, at `source` or at the node's server."""
    channel = _updater(belay, source).channel()
    news, tried = channel.version != belay.node.system.version, belay.memory.tried_before()
    what = "is there" if news else "is running already"
    if news and tried and tried.version == channel.version and tried.rejected:
        why = headline(tried.rejected)
        what = f"is there, but was rejected before: {why}; to try it now: belay update --again"
    values = {"version": channel.version, "news": news}
    return Answer(values, (f"release {channel.version} {what}",))


class Wish(NamedTuple):
    """Which release is wanted: from `source`, the version `to`, or the running one once more.

    `again`: even if it was rejected before; `by_service`: nobody asked.
    """

    source: str = ""
    to: str = ""
    reinstall: bool = False
    again: bool = False
    reboot: bool = False
    by_service: bool = False


def update(belay: Belay, wish: Wish) -> Answer:
    """Bring a release into the other slot, to be tried at the next boot."""
    node, memory = belay.node, belay.memory
    with alone(node, 0 if wish.by_service and not wish.source else -1):
        updater = _updater(belay, wish.source, giving_way(node))
        manifest = _wanted(updater, wish)
        if manifest is None:
            version = node.system.version
            values = {"version": version, "installed": False}
            return Answer(values, (f"release {version} is running already",))
        version, tried = manifest.version, memory.tried_before()
        by_itself = not wish.to and not wish.reinstall
        known = tried if tried and tried.version == version and by_itself else None
        left = known.again_in(memory.clock()) if known else None
        if known and known.rejected and left != 0 and not wish.again:
            when = f"in {int(left) // 60 + 1} min" if left else "never"
            line = (
                f"release {version} was rejected before ({headline(known.rejected)}), and is tried "
                f"again by itself {when}; to try it now: belay update --again"
            )
            return Answer({"version": version, "installed": False}, (line,))
        waits = known and node.boot.read().slots[node.other].state == TRIAL
        note = "" if waits else updater.install(manifest)
    if note:
        belay.whisper(note)
    what = "is installed already" if waits else f"is in slot {node.other}"
    answer = Answer(
        {"version": version, "installed": True} | ({"note": note} if note else {}),
        (f"release {version} {what}: reboot to try it", *([note] if note else [])),
    )
    # By the service once in a boot: where that didn't help, more of it won't.
    if wish.reboot and not (wish.by_service and memory.volatile("rebooting")):
        memory.note_volatile("rebooting", version)
        belay.tell(answer.lines[0])
        belay.reboot()
        return answer._replace(lines=())
    return answer


def _wanted(updater: "Updater", wish: Wish) -> "Manifest | None":
    """The release that is to be installed; None where it runs already."""
    from updater.formats import VERSION, version_key

    running = updater.node.system.version
    if wish.reinstall:
        return updater.manifest(running)
    if not wish.to:
        offer = updater.offered()
        return offer.manifest if offer.news else None
    if not VERSION.fullmatch(wish.to):
        raise UpdateError(f"{wish.to!r} is no version such as 1.2.3")
    if version_key(wish.to) < version_key(running):
        raise UpdateError(
            f"{wish.to} is older than {running}: only a signed order of the channel goes back; "
            "belay rollback takes the other slot"
        )
    return updater.manifest(wish.to) if wish.to != running else None


def confirm(belay: Belay) -> Answer:
    """Declare the running slot good."""
    from updater import gate

    with alone(belay.node):
        gate.confirm_by_hand(belay.node, belay.memory, belay.tell)
    line = f"the next boot is of slot {boots_next(belay.node.boot.read())}"
    return Answer({"slot": belay.node.slot}, (line,))


def rollback(belay: Belay) -> Answer:
    """Go back to the other slot at the next boot."""
    from updater import gate

    with alone(belay.node):
        gate.roll_back(belay.node, belay.memory, belay.tell)
    return Answer({"slot": belay.node.other})


def history(belay: Belay) -> Answer:
    """What happened, one line for each event; all of a reason is in the values."""
    events = belay.memory.history()
    lines = []
    for event in events:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
        reason = f": {headline(event.reason)}" if event.reason else ""
        lines.append(f"{when}  {event.what:9}  {event.version} in slot {event.slot}{reason}")
    none = ("nothing happened yet, as far as this node remembers",)
    return Answer({"events": [event._asdict() for event in events]}, tuple(lines) or none)


def logs(belay: Belay) -> Answer:
    """What the last two boots said that were unhealthy."""
    from updater.gate import LOG, LOG_BEFORE, LOGS_MAX

    kept = (belay.memory.read(name, LOGS_MAX) for name in (LOG_BEFORE, LOG))
    texts = [data.decode(errors="replace") for data in kept if data]
    none = ["no boot was unhealthy, as far as this node remembers"]
    return Answer(
        {"logs": texts}, tuple(line for text in texts or none for line in text.splitlines())
    )


def apply_site(belay: Belay) -> Answer:
    """Apply the configuration that is good with the running release, at a boot."""
    from updater.site import Site

    with alone(belay.node, FOR_EVER):
        its = Site(belay.node, belay.memory, belay.tell)
        return _about_site(its, its.boot())


def update_site(belay: Belay, by_service: bool = False) -> Answer:
    """Try the newest configuration of the site; keep it, or go back."""
    from updater.site import Site

    with alone(belay.node, 0 if by_service else -1):
        its = Site(belay.node, belay.memory, belay.announce)
        updater = _updater(belay, "", giving_way(belay.node), hint="")
        return _about_site(its, its.update(updater, belay.reboot))


def _about_site(its: Any, done: Any) -> Answer:
    if done is None:
        line = its.waits() or "the site has nothing new for this node"
        return Answer({"version": "", "changed": []}, (line,))
    what = "is applied" if done.well else f"failed: {done.why}"
    line = f"site {done.version} {what}, {len(done.changed)} changes"
    return Answer(done._asdict(), (line,), 0 if done.well else 1)


def write_own_files(belay: Belay, file: str) -> Answer:
    """Write a volume with the node's own files to its partition; - for what comes in."""
    from updater.volume import write_volume

    node = belay.node
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        partition = write_volume(node, data)
    except OSError as error:
        raise UpdateError(f"{file}: {error.strerror}") from None
    belay.memory.note("node files", node.system.version, node.slot, f"written to {partition}")
    line = f"{partition} has the node's files: reboot to use them"
    return Answer({"written": str(partition)}, (line,))


def own_files(belay: Belay) -> Answer:
    """What the node's own files told it."""
    node, folder = belay.node, belay.node.root / RUN_NODE
    files = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    line = f"node {node.name or '(no name)'}, from the files: {' '.join(files) or 'none'}"
    warnings = tuple(f"warning: {warning}" for warning in node.warnings)
    values = {"name": node.name, "files": files, "warnings": node.warnings}
    return Answer(values, (line, *warnings))


def boot_time(belay: Belay, svg: bool = False) -> Answer:
    """Where the seconds of this boot went; as lines, or as a picture."""
    from updater.boottime import boot_spans

    spans = boot_spans(belay.node.root)
    if svg:
        from updater.bars import bars

        return Answer({"svg": "\n".join(drawn := tuple(bars(spans, "s")))}, drawn)
    lines = (f"{span.start:7.2f} s  {span.seconds:6.2f} s  {span.name}" for span in spans)
    return Answer({"spans": [span._asdict() for span in spans]}, tuple(lines))


def judge(belay: Belay) -> Answer:
    """Look at the health of this boot, and act on it."""
    from updater import gate

    with alone(belay.node, FOR_EVER):
        well = gate.gate(belay.node, belay.memory, belay.announce, belay.reboot, belay.whisper)
    return Answer({"well": well}, code=0 if well else 1)


def give_up(belay: Belay, why: str) -> Answer:
    """Keep what can be known of a boot that is reset. Whoever has the lock may be what hangs."""
    from updater import gate

    gate.overdue(belay.node, belay.memory, why)
    return Answer({})


def pull(belay: Belay, source: str = "") -> Answer:
    """Update, if it is time for it, and reboot: as a service does it.

    Whoever plugs in a stick doesn't want to wait for the window.
    """
    node, memory = belay.node, belay.memory
    answer = Answer({"version": node.system.version, "installed": False})
    if not source and not in_window(node.settings.window, time.localtime().tm_hour):
        return answer
    failures: list[UpdateError] = []

    def tried(action: Callable[[], Answer]) -> Answer:
        try:
            return action()
        except GaveWay:
            raise
        except UpdateError as error:
            failures.append(error)
            if str(error) not in [event.reason for event in memory.history()[-2:]]:  # not hourly
                memory.note("failed", node.system.version, node.other, str(error))
            return answer

    wish = Wish(source, reboot=True, by_service=True)
    answer = tried(lambda: update(belay, wish))
    # The site needs no release: it comes although that can't be had.
    if node.settings.site and not source and not answer.values["installed"]:
        for line in tried(lambda: update_site(belay, by_service=True)).lines:
            belay.tell(line)
    for further in failures[1:]:
        belay.whisper(str(further))
    if failures:
        raise failures[0]
    return answer


# --- without a node ---


def install(root: Path, disk: str, again: str, tell: Say) -> Answer:
    """Write this system, which came over the network, to a disk."""
    from updater.install import install as write_to

    size = write_to(root, disk, again, tell)
    line = f"{disk} has both slots: reboot from it"
    return Answer({"disk": disk, "size": size}, (line,))


def settings(root: Path) -> Answer:
    """What this node goes by."""
    from updater.settings import read_settings

    found, wrong = read_settings(root)
    given = found._asdict()
    lines = [f"{name} = {json.dumps(value)}" for name, value in given.items()]
    return Answer(given, (*lines, *(f"warning: {text}" for text in wrong)))


def resolve(root: Path) -> Answer:
    """The same, written for the services."""
    from updater.node import add_warning
    from updater.settings import resolve_settings

    given, wrong = resolve_settings(root)
    for text in wrong:
        add_warning(root, text)
    return Answer(given._asdict())


# --- what they share ---


def _updater(
    belay: Belay,
    location: str,
    look: Callable[[], None] = lambda: None,
    hint: str = ", or give --from",
) -> "Updater":
    from updater.source import open_source
    from updater.update import Updater

    location = location or belay.node.settings.url
    if not location:
        raise UpdateError(f"no server is set; set url in [update] of image.toml{hint}")

    def sleep(seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            look()
            time.sleep(min(left, 1))

    how: dict[str, Any] = {}
    if "://" in location:
        from updater.server import access_of

        how = {
            "access": access_of(belay.node), "say": belay.whisper, "look": look, "sleep": sleep,
        }  # fmt: skip
    source = open_source(location, arch_folder(belay.node.system.arch), **how)
    return Updater(belay.node, source, belay.memory, belay.progress, sleep)


def in_window(window: str, hour: int) -> bool:
    """Whether `hour` is in a window such as 22-4; no window means always."""
    if not window:
        return True
    begin, end = (int(part) for part in window.split("-"))
    return begin <= hour < end if begin <= end else hour >= begin or hour < end
