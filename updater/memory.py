"""What a node remembers on `data`: trust that only grows, and what happened.

`data` may be lost, full, read-only or damaged at any time, and nothing of that stops a node:

- What can't be read, or makes no sense, is put aside as `damaged-NAME`, and done without.
- What can't be written to `data` is kept in memory until the next boot.
- Where `data` is lost, the image's own build time stays as the floor of time, the image's own list
  of revoked keys as that of keys, and grubenv knows of the slots.
"""

import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from updater.contract import BAD, DATA_SIGNED, RUN, RUN_KEPT, RUN_MEMORY_LOCK, SLOTS
from updater.errors import UpdateError, printable
from updater.node import Node
from updater.reading import REASON_MAX, TIME_MAX, checked, read_file, read_object

LOST = "its reason was lost; the boot loader knows"
DAMAGED = "damaged-"
FILE_MAX = 64 << 10
HISTORY_LINES = 500
HISTORY_MAX = 4 << 20
AGAIN_S = 3600  # before a release is tried again; four times as long each time
UNREACHED_MAX = 5
CLOCK_ERROR_S = 2 * 86400  # the most that a server's clock may be ahead of one that is kept right
CLOCK_SPAN_S = 10 * 365 * 86400  # a clock further ahead of what is signed than that is wrong
ETAG = re.compile(r'(W/)?"[\x21\x23-\x7e]{1,128}"')  # RFC 9110, 8.8.3; others are not kept
CHANNEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # formats.NAME_PATTERN, which is slow to come
KEY_ID = re.compile(r"[0-9A-F]{16}")
ANY_KEY = ""


class Trust(NamedTuple):
    """`newest` signed time that was seen, by channel and key; `revoked` ids of keys.

    `etags` are the server's tags of the channel files as they came last.
    """

    newest: Mapping[str, Mapping[str, int]] = {}
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
    unreached: int = 0  # how often it was given up only because something could not be reached
    at: int = 0  # when it was given up last, in seconds since 1970, by the node's clock
    boot: str = ""  # the boot in which it was installed

    def again_in(self, now: float) -> float | None:
        """In how many seconds it is tried again by itself; None for never.

        What could not be reached may be there later; but a node doesn't reboot for it for ever.
        """
        if not self.rejected or not 0 < self.unreached < UNREACHED_MAX:
            return None
        wait = AGAIN_S * 4 ** (self.unreached - 1)
        left = self.at + wait - now
        return left if 0 < left <= wait else 0.0  # more: the clock was set back


class RejectedSite(NamedTuple):
    """The configuration that was given up last on a slot."""

    version: str
    why: str


class Noted(NamedTuple):
    """Something noted for this boot only. `time` as in Event."""

    what: str
    time: int


def headline(reason: str) -> str:
    """The first line of a reason: all of it is in `belay status`."""
    return reason.partition("\n")[0].rstrip(":")


class Memory:
    """The files in `folder`. `clock` is the time in seconds since 1970."""

    def __init__(
        self,
        node: Node,
        clock: Callable[[], float] | None = None,
        clock_is_kept: Callable[[], bool] | None = None,
    ) -> None:
        self.node = node
        self.folder = node.data
        self.clock = clock or time.time
        self.clock_is_kept = clock_is_kept or _clock_is_kept
        self._locks = 0  # how many times this process holds the lock

    def trust(self) -> Trust:
        """What is trusted, as far as it makes sense; the least there is where it was lost."""
        import hashlib  # slow to come, and a look at the state needs none of it

        line, _, checksum = self.read("trust.json").partition(b"\n")
        try:
            values = read_object(line) if line else {}
            # One bit more in a time would refuse all that is honest. Versions before had none.
            if checksum and hashlib.sha256(line).hexdigest().encode() != checksum.strip():
                raise ValueError
        except ValueError:
            self.put_aside("trust.json")
            values = {}
        keys = values.get("revoked")
        trust = Trust(
            {name: _times(at) for name, at in _by_channel(values, "newest") if _times(at)},
            tuple(key for key in keys if _matches(KEY_ID, key)) if isinstance(keys, list) else (),
            {name: tag for name, tag in _by_channel(values, "etags") if _matches(ETAG, tag)},
        )
        right = json.loads(json.dumps(trust._asdict()))
        if isinstance(values.get("newest"), dict):  # as versions before had it
            values["newest"] = {
                name: {ANY_KEY: at} if _is_time(at) else at for name, at in values["newest"].items()
            }
        if isinstance(values.get("etags"), dict):
            values["etags"] = {name: tag for name, tag in values["etags"].items() if tag != ""}
        # Another version of Belay may know more fields, or fewer.
        if any(values[name] != right[name] for name in values.keys() & right.keys()):
            self.put_aside("trust.json")
            with suppress(UpdateError):
                self._write_trust(trust)
        return trust

    def keep_trust(self, trust: Trust) -> None:
        """Raises UpdateError where it can't be kept."""
        # Releases before this one left no time for the shell.
        if trust != self.trust() or not self.read(Path(DATA_SIGNED).name):
            self._write_trust(trust)

    def _write_trust(self, trust: Trust) -> None:
        import hashlib

        line = json.dumps(trust._asdict()).encode()
        self.write("trust.json", b"%s\n%s\n" % (line, hashlib.sha256(line).hexdigest().encode()))
        # For the shell, which sets the clock by it early in a boot.
        newest = str(max((at for keys in trust.newest.values() for at in keys.values()), default=0))
        digest = hashlib.sha256(newest.encode()).hexdigest()
        self.write(Path(DATA_SIGNED).name, f"{newest} {digest}\n".encode())

    def tried(self) -> Tried | None:
        """The last release that was installed here, if that is known."""
        values = self.read_object("tried.json")
        tried = checked(Tried, values)
        if values and (tried is None or tried.slot not in SLOTS):
            self.put_aside("tried.json")
            return None
        return tried

    def tried_before(self) -> Tried | None:
        """The same, also where `data` was lost: grubenv knows the version, and if it was bad."""
        if tried := self.tried():
            return tried
        state, slot = self.node.boot.read(), self.node.other
        if not state.tried:
            return None
        gone = state.slots[slot].state == BAD
        return Tried(state.tried, slot, rejected=f"{LOST}: {state.why}" if gone else "")

    def keep_tried(self, tried: Tried) -> None:
        """Raises UpdateError where it can't be kept."""
        tried = tried._replace(rejected=printable(tried.rejected, REASON_MAX))
        self.write("tried.json", json.dumps(tried._asdict()).encode())

    def newest(self, channel: str, keys: Collection[str]) -> int:
        """The newest time that one of these keys signed a channel; 0 for none."""
        times = self.trust().newest.get(channel, {})
        return max((at for key, at in times.items() if key in (ANY_KEY, *keys)), default=0)

    def now(self, newest: int) -> tuple[int, int]:
        """The time as far as it is known, and the latest that it can be; `newest` was signed.

        Never before what is known to have been. A clock that nobody keeps right says nothing: else
        it would end all updates, as everything has expired by then. Nor does one that is far ahead.
        """
        floor = max(self.node.system.built, newest)
        clock = int(self.clock())
        if floor <= clock <= floor + CLOCK_SPAN_S and self.clock_is_kept():
            return clock, clock + CLOCK_ERROR_S
        # An image that is no release says nothing of the time.
        return floor, floor + CLOCK_SPAN_S if floor else TIME_MAX

    def note(self, what: str, version: str, slot: str, reason: str = "") -> None:
        """Add to the history. Where that can't be, the work goes on."""
        event = Event(int(self.clock()), what, version, slot, printable(reason, REASON_MAX))
        with self.alone(), suppress(UpdateError):
            events = [*self.history(), event][-HISTORY_LINES:]
            lines = [json.dumps(past._asdict(), ensure_ascii=False).encode() for past in events]
            while sum(map(len, lines)) > HISTORY_MAX // 2:
                lines.pop(0)
            self.write("history", b"".join(b"%s\n" % line for line in lines))

    def history(self) -> list[Event]:
        """What happened, the oldest first; lines that were damaged are left out."""
        events = []
        for line in self.read("history", HISTORY_MAX).splitlines():
            with suppress(ValueError):
                if event := checked(Event, read_object(line)):
                    events.append(event)
        return events

    def damaged(self) -> list[str]:
        """The names of the files that made no sense and were put aside, and since when."""
        names = []
        for path in sorted(self.folder.glob(f"{DAMAGED}*")):
            with suppress(OSError, OverflowError, ValueError):
                since = time.strftime("%Y-%m-%d", time.gmtime(path.lstat().st_ctime))
                names.append(f"{path.name.removeprefix(DAMAGED)} ({since})")
        return names

    @property
    def volatile_files(self) -> list[str]:
        """The names of the files that `data` couldn't take: they last until the next boot."""
        kept = self.node.root / RUN_KEPT
        return sorted(path.name for path in kept.iterdir()) if kept.is_dir() else []

    def read_object(self, name: str) -> dict[str, Any]:
        """A JSON object; nothing in it where there is none. What is none is put aside."""
        data = self.read(name)
        try:
            return read_object(data) if data else {}
        except ValueError:
            self.put_aside(name)
            return {}

    def read(self, name: str, most: int = FILE_MAX) -> bytes:
        """A file; nothing where there is none. What is larger, or can't be read, is put aside."""
        with suppress(OSError, ValueError):  # what is in memory is newer
            return read_file(self.node.root / RUN_KEPT / name, most)
        try:
            return read_file(self.folder / name, most)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError):
            self.put_aside(name)
        return b""

    def is_fresh(self, name: str, seconds: float) -> bool:
        """Whether a file was written within these seconds, by a clock that may be wrong."""
        try:
            return 0 <= self.clock() - (self.folder / name).stat().st_mtime < seconds
        except OSError:
            return False

    def put_aside(self, name: str) -> None:
        """Keep a damaged file for whoever looks into it, in the place of an older one."""
        with suppress(OSError):
            (self.node.root / RUN_KEPT / name).unlink()
        path, aside = self.folder / name, self.folder / f"{DAMAGED}{name}"
        with suppress(OSError):
            _clear(aside)
            path.rename(aside)

    def volatile(self, name: str) -> dict[str, Any]:
        """What was noted for this boot only: `what`, and when (`time`); nothing where it wasn't."""
        try:
            noted = checked(Noted, read_object(read_file(self._run(name), FILE_MAX)))
        except (OSError, ValueError):
            return {}
        return noted._asdict() if noted else {}

    def note_volatile(self, name: str, what: str) -> None:
        """Note something for this boot, in memory. Where that can't be, the work goes on."""
        noted = Noted(printable(what, REASON_MAX), int(self.clock()))
        with suppress(OSError):
            self._run(name).parent.mkdir(parents=True, exist_ok=True)
            self._run(name).write_text(json.dumps(noted._asdict()))

    def _run(self, name: str) -> Path:
        return self.node.root / RUN / f"{name}.json"

    def forget(self, name: str) -> None:
        """Remove a file."""
        for folder in (self.node.root / RUN_KEPT, self.folder):
            with suppress(OSError):
                (folder / name).unlink()

    def rename(self, name: str, other: str) -> None:
        """Give a file another name, in one step that a power cut can't split."""
        try:
            (self.folder / name).rename(self.folder / other)
            _flush_folder(self.folder)
        except OSError as error:
            raise UpdateError(f"{self.folder / name} can't be renamed: {error.strerror}") from None

    def write(self, name: str, data: bytes, durable: bool = False) -> None:
        """Write a file so that it is there whole or as before, whatever happens.

        What `data` doesn't take is kept in memory until the next boot, but not what has to be
        `durable`. Raises UpdateError.
        """
        with self.alone():
            kept = self.node.root / RUN_KEPT
            try:
                _write(self.folder, name, data)
            except OSError as error:
                problem = f"{self.folder / name} can't be written: {error.strerror}"
                if durable:
                    raise UpdateError(f"{problem}; nothing was changed") from None
                try:
                    _write(kept, name, data)
                except OSError:
                    raise UpdateError(f"{problem}, and not kept in memory either") from None
            else:
                with suppress(OSError):
                    (kept / name).unlink()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let one process at a time change what is remembered. It is never held for long."""
        path = self.node.root / RUN_MEMORY_LOCK
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = path.open("w")
            path.chmod(0o600)  # who can open it can hold it
        except OSError:  # without a lock then: what is remembered counts more
            yield
            return
        with lock:
            if not self._locks:
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._locks += 1
            try:
                yield
            finally:
                self._locks -= 1


def _clear(path: Path) -> None:
    """Have nothing in a place."""
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(folder: Path, name: str, data: bytes) -> None:
    fresh = folder / f".{name}"
    try:
        if os.path.lexists(folder) and not folder.is_dir():  # a link to nowhere, too
            folder.rename(folder.with_name(f"{DAMAGED}{folder.name}"))
        folder.mkdir(parents=True, exist_ok=True)
        if stat.S_IMODE(folder.stat().st_mode) != 0o700:
            folder.chmod(0o700)  # what is remembered is nobody else's business
        for path in (fresh, folder / name):
            if path.is_dir():
                _clear(folder / f"{DAMAGED}{name}")
                path.rename(folder / f"{DAMAGED}{name}")
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(folder / name)
        _flush_folder(folder)
    except OSError:
        with suppress(OSError):
            fresh.unlink()
        raise


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clock_is_kept() -> bool:
    """Whether something keeps the clock right, such as ntpd: the kernel is told (adjtimex(2))."""
    import subprocess

    try:
        done = subprocess.run(["adjtimex"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "status:" in done.stdout and "UNSYNC" not in done.stdout


def _times(value: object) -> dict[str, int]:
    """The times by key; of versions before, one for all keys."""
    if _is_time(value):
        value = {ANY_KEY: value}
    pairs = value.items() if isinstance(value, dict) else ()
    return {
        key: at for key, at in pairs if (key == ANY_KEY or _matches(KEY_ID, key)) and _is_time(at)
    }


def _by_channel(values: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    """The pairs of an object whose names are those of channels."""
    found = values.get(name)
    pairs = found.items() if isinstance(found, dict) else ()
    return [(channel, value) for channel, value in pairs if CHANNEL.fullmatch(channel)]


def _is_time(value: object) -> bool:
    return type(value) is int and 0 <= value <= TIME_MAX


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and bool(pattern.fullmatch(value))
