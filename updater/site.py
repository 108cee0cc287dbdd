"""The site: the configuration that is applied on this node, and how a new one is tried.

A configuration is an archive (`site_archive.py`) with a program `apply`, called as `apply NODE`. A
channel file named like the node's channel with `.site` behind it points to it: `manifest` is the
SHA-256 of the archive, `version` its version.

It belongs to a slot: `data/belay/site-SLOT-good` is the one that was good with the release there. A
slot that is booted on trial takes over what was good in the other one, so there are never two
trials at once. A new configuration is tried only on a good slot:

1. It is written as `trial` and flushed, then applied, then the health checks run.
2. If all is well, `trial` is renamed to `good`: one step, there is no moment without a good one.
3. Else it is renamed to `bad`, with its reason, and the node reboots: the root is volatile, so the
   boot has nothing of it left, and applies `good`.

A boot that finds `trial` knows that the node went down before it was confirmed: it is bad.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from updater.contract import (
    GOOD,
    RUN_SITE,
    RUN_SITE_OUTCOME,
    RUN_SITE_WHY,
    TRIAL,
)
from updater.errors import UpdateError, printable
from updater.health import run_checks
from updater.memory import Memory, RejectedSite
from updater.node import Node
from updater.process import run_within
from updater.reading import REASON_MAX, checked, read_file, read_object
from updater.site_archive import APPLY, SITE_SIZE_MAX, unpack, version_of

if TYPE_CHECKING:
    from updater.update import Updater

KEPT_HEAD = 65  # its hash in hex, and the end of that line
APPLIED_MAX = 1 << 20
NAMELESS = "nameless"  # what a node without a name is called
LINES = 20  # of what `apply` says are kept
Say = Callable[[str], None]


class Applied(NamedTuple):
    """What became of the configuration at this boot. `why` says what was wrong, if anything was."""

    version: str
    well: bool
    changed: tuple[str, ...] = ()
    why: str = ""


class Site:
    """The site of a node."""

    def __init__(self, node: Node, memory: Memory, say: Say) -> None:
        self.node, self.memory, self.say = node, memory, say

    def _file(self, state: str, slot: str = "") -> str:
        return f"site-{slot or self.node.slot}-{state}"

    def boot(self) -> Applied | None:
        """Apply what is good with the running release; None where there is nothing."""
        if trial := self._kept("trial"):
            self._reject(trial, "the node went down before it was confirmed")
        good = self._kept("good")
        if self.node.mode == TRIAL or not good:
            other = self._kept("good", self.node.other)
            if other and other != good:
                good = other
                with self._said():
                    self._keep("good", good)
        return self._apply(good) if good else None

    def _kept(self, state: str, slot: str = "") -> bytes:
        """An archive that was kept; nothing where it isn't there, or isn't what was signed."""
        name = self._file(state, slot)
        kept = self.memory.read(name, SITE_SIZE_MAX + KEPT_HEAD)
        digest, _, archive = kept.partition(b"\n")
        if kept and _sha256(archive).encode() != digest:
            self.say(f"data/belay/{name} is damaged, and is not applied")
            self.memory.put_aside(name)
            return b""
        return archive

    def _keep(self, state: str, archive: bytes) -> None:
        """Keep an archive with its hash, which was signed when it came. Raises UpdateError."""
        kept = b"%s\n%s" % (_sha256(archive).encode(), archive)
        self.memory.write(self._file(state), kept, durable=True)

    def waits(self) -> str:
        """Why a new configuration isn't tried now; nothing where it may be."""
        slots, mode = self.node.boot.read().slots, self.node.mode
        if mode not in (GOOD, TRIAL):
            return f"no new site is tried in a boot of mode {mode}"
        # A trial that was confirmed is good, though it is what this boot began as.
        if slots[self.node.slot].state != GOOD:
            return "a new site is tried when this boot is confirmed"
        if slots[self.node.other].state == TRIAL:  # one trial at a time
            return f"a new site is tried after the release in slot {self.node.other}"
        return ""

    def update(self, updater: Updater, reboot: Callable[[], None]) -> Applied | None:
        """Try what the channel has, if that is new and may be; None if not. Raises UpdateError."""
        if self.waits():
            return None
        channel = updater.channel(f"{self.node.settings.channel}.site")
        if channel.manifest in (_sha256(self._kept(which)) for which in ("good", "bad")):
            return None
        archive = updater.blob(channel.manifest, SITE_SIZE_MAX)
        self._keep("trial", archive)
        applied = self._apply(archive)
        why = applied.why if not applied.well else self._unhealthy()
        if not why:
            self.memory.rename(self._file("trial"), self._file("good"))
            self.say(f"site {applied.version} is good: {len(applied.changed)} changes")
            self.memory.note("site", applied.version, self.node.slot)
            return applied
        self._reject(archive, why)
        reboot()
        return applied._replace(well=False, why=why)

    def _unhealthy(self) -> str:
        for result in run_checks(self.node):
            if result.failed:
                return str(result)
        return ""

    def _reject(self, archive: bytes, why: str) -> None:
        version = version_of(archive)
        self.say(f"site {version} is rejected: {why}")
        self.memory.note("site rejected", version, self.node.slot, why)
        reason = json.dumps(RejectedSite(version, printable(why, REASON_MAX))._asdict()).encode()
        # Without room for the reason the trial is given up nevertheless.
        with self._said():
            self.memory.write(self._file("why"), reason)
        with self._said():
            self.memory.rename(self._file("trial"), self._file("bad"))

    @contextmanager
    def _said(self) -> Iterator[None]:
        """What `data` can't keep is said, and stops neither a boot nor the way back."""
        try:
            yield
        except UpdateError as error:
            self.say(str(error))

    def rejected(self) -> dict[str, Any]:
        """The configuration that was given up last on this slot: `version` and `why`."""
        gone = checked(RejectedSite, self.memory.read_object(self._file("why")))
        return gone._asdict() if gone else {}

    def applied(self) -> dict[str, Any]:
        """What was applied at this boot."""
        try:
            values = read_object(read_file(self.node.root / RUN_SITE_OUTCOME, APPLIED_MAX))
        except (OSError, ValueError):
            return {}
        return values if values.keys() >= set(Applied._fields) else {}

    def _apply(self, archive: bytes) -> Applied:
        version, tree = version_of(archive), self.node.root / RUN_SITE
        try:
            unpack(archive, tree)
            words: list[str | Path] = [tree / APPLY, self.node.name or NAMELESS]
            code, output = run_within(self.node.settings.deadline_s, words, folder=tree)
        except (UpdateError, OSError) as error:  # a program that can't be started, too
            code, output = 1, str(error)
        lines = output.splitlines()
        changed = _changes(lines[-1]) if lines else ()
        text = "\n".join(lines[-LINES:])
        applied = Applied(version, code == 0, changed, "" if code == 0 else f"apply: {text}")
        (self.node.root / RUN_SITE_OUTCOME).write_text(json.dumps(applied._asdict()))
        why = self.node.root / RUN_SITE_WHY
        if applied.well:
            why.unlink(missing_ok=True)
        else:
            why.write_text(f"{applied.why}\n")
        return applied


def _sha256(data: bytes) -> str:
    import hashlib  # which brings OpenSSL along

    return hashlib.sha256(data).hexdigest()


def _changes(line: str) -> tuple[str, ...]:
    try:
        return tuple(str(item) for item in json.loads(line)["changed"])
    except (ValueError, TypeError, KeyError):
        return ()
