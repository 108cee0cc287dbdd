"""What a node remembers on `data`: trust that only grows, and what happened.

`data` may be lost at any time, and then all of this is: the image's own build time stays as the
floor of time, the image's own list of revoked keys as that of keys, and grubenv knows of the slots.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from updater.errors import UpdateError
from updater.node import Node

RUN = "run/belay"
HISTORY_LINES = 500
CLOCK_SPAN_S = 10 * 365 * 86400  # a clock further ahead of what is signed than that is wrong


class Trust(NamedTuple):
    """`newest` signed time that was seen, by channel; `revoked` ids of keys.

    `etags` are the server's tags of the channel files as they came last.
    """

    newest: Mapping[str, int] = {}
    revoked: tuple[str, ...] = ()
    etags: Mapping[str, str] = {}


class Event(NamedTuple):
    """Something worth telling later. `time` in seconds since 1970, by the node's clock."""

    time: int
    what: str  # update, confirmed, rejected, unhealthy, failed, panic, site, site rejected
    version: str
    slot: str
    reason: str = ""


class Tried(NamedTuple):
    """The last release that was installed. `rejected` says why it was given up, if it was."""

    version: str
    slot: str
    confirmed: bool = False
    rejected: str = ""
    reached: bool = False  # whether it came from the server, and not from a stick


def headline(reason: str) -> str:
    """The first line of a reason: all of it is in `belay status`."""
    return reason.partition("\n")[0].rstrip(":")


class Memory:
    """The files in `folder`. `clock` is the time in seconds since 1970."""

    def __init__(self, node: Node, clock: Callable[[], float] = time.time) -> None:
        self.node = node
        self.folder = node.data
        self.clock = clock

    def trust(self) -> Trust:
        """What is trusted; the least there is where that was lost."""
        values = self._read("trust.json")
        try:
            return Trust(
                {str(name): int(value) for name, value in values["newest"].items()},
                tuple(str(key) for key in values["revoked"]),
                {str(name): str(value) for name, value in values["etags"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return Trust()

    def keep_trust(self, trust: Trust) -> None:
        """Raises UpdateError where it can't be kept."""
        if trust != self.trust():
            self.write("trust.json", json.dumps(trust._asdict()).encode())

    def tried(self) -> Tried | None:
        """The last release that was installed here, if that is known."""
        values = self._read("tried.json")
        try:
            return Tried(**{name: values[name] for name in values.keys() & set(Tried._fields)})
        except TypeError:
            return None

    def keep_tried(self, tried: Tried) -> None:
        """Raises UpdateError where it can't be kept."""
        self.write("tried.json", json.dumps(tried._asdict()).encode())

    def now(self, channel: str) -> int:
        """The time, as far as it can be known without trusting the clock alone.

        Never before what is known to have been. A clock that is far ahead says nothing: else it
        would end all updates, as everything has expired by then.
        """
        floor = max(self.node.system.built, self.trust().newest.get(channel, 0))
        clock = int(self.clock())
        return clock if floor <= clock <= floor + CLOCK_SPAN_S else floor

    def note(self, what: str, version: str, slot: str, reason: str = "") -> None:
        """Add to the history. Where that can't be, the work goes on."""
        lines = self._lines()[-HISTORY_LINES:]
        event = Event(int(self.clock()), what, version, slot, reason)
        lines.append(json.dumps(event._asdict()))
        try:
            self.write("history", "".join(f"{line}\n" for line in lines).encode())
        except UpdateError:
            return

    def history(self) -> list[Event]:
        """What happened, the oldest first."""
        events = []
        for line in self._lines():
            try:
                events.append(Event(**json.loads(line)))
            except (ValueError, TypeError):
                continue  # a line that was damaged
        return events

    def _lines(self) -> list[str]:
        try:
            return (self.folder / "history").read_text(errors="replace").splitlines()
        except OSError:
            return []

    def _read(self, name: str) -> dict[str, Any]:
        try:
            values = json.loads((self.folder / name).read_text())
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def read(self, name: str) -> bytes:
        """A file; nothing where there is none."""
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return b""

    def volatile(self, name: str) -> dict[str, Any]:
        """What was noted for this boot only: `what`, and when (`time`); nothing where it wasn't."""
        try:
            return dict(json.loads((self.node.root / RUN / f"{name}.json").read_text()))
        except (OSError, ValueError):
            return {}

    def note_volatile(self, name: str, what: str) -> None:
        """Note something for this boot, in memory. Where that can't be, the work goes on."""
        place = self.node.root / RUN / f"{name}.json"
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps({"what": what, "time": int(self.clock())}))

    def forget(self, name: str) -> None:
        """Remove a file."""
        with suppress(OSError):
            (self.folder / name).unlink()

    def rename(self, name: str, other: str) -> None:
        """Give a file another name, in one step that a power cut can't split."""
        try:
            (self.folder / name).rename(self.folder / other)
            self._flush_folder()
        except OSError as error:
            raise UpdateError(f"{self.folder / name} can't be renamed: {error.strerror}") from None

    def _flush_folder(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def write(self, name: str, data: bytes) -> None:
        """Write a file so that it is there whole or as before, whatever happens."""
        fresh = self.folder / f".{name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(self.folder / name)
            self._flush_folder()
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            raise UpdateError(
                f"{self.folder / name} can't be written: {error.strerror}; nothing was changed"
            ) from None
