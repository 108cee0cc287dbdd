"""Whose turn it is on a node: one process at a time changes slots and boot state."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from updater.contract import RUN_GAVE_WAY, RUN_LOCK, RUN_WAITING
from updater.errors import GaveWay, UpdateError
from updater.node import Node

PATIENCE_S, FOR_EVER = 60.0, float("inf")


@contextmanager
def alone(node: Node, patience_s: float = -1) -> Iterator[None]:
    """Let one process at a time change slots and boot state.

    Who waits shows that, and who only waits for a server gives way then: see `giving_way`. Without
    patience nobody is asked to. Raises UpdateError where it takes too long.
    """
    patience_s = PATIENCE_S if patience_s < 0 else patience_s
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


def giving_way(node: Node) -> Callable[[], None]:
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
    path = node.root / name
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = path.open("w")
    path.chmod(0o600)  # who can open it can hold it
    return file


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
