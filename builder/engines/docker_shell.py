"""Connects the terminal that `inv` runs in with a container."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docker.models.containers import Container

BLOCK = 1 << 16


def attach(container: Container) -> int:
    """Start `container`, carry keys and output until it ends, and return its exit code.

    It has a terminal of its own where we have one; the size of ours is passed on as it changes.
    """
    # Only SSH connections give something else than a plain socket.
    connection = container.attach_socket(
        params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1, "logs": 0}
    )
    plain: socket.socket = getattr(connection, "_sock", connection)
    container.start()
    with _raw_terminal(), _resized(container.resize) as resize:
        _carry(plain, resize)
    return int(container.wait()["StatusCode"])


def _carry(connection: socket.socket, begins: Callable[[], None]) -> None:
    """Carry bytes both ways until the other side ends; `begins` is called when it first speaks."""
    keys, screen = sys.stdin.fileno(), sys.stdout.fileno()
    sources: list[int | socket.socket] = [connection, keys]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if connection in ready:
            data = connection.recv(BLOCK)
            if not data:
                return
            begins()
            begins = _nothing
            os.write(screen, data)
        if keys in ready:
            if typed := os.read(keys, BLOCK):
                connection.sendall(typed)
            else:
                sources.remove(keys)
                connection.shutdown(socket.SHUT_WR)


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Leave it to the container's terminal to make something of keys like Ctrl-C."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextmanager
def _resized(resize: Callable[[int, int], None]) -> Iterator[Callable[[], None]]:
    """Pass on the size of our terminal whenever it changes, and when what this gives is called."""

    def pass_on(*_: object) -> None:
        size = os.get_terminal_size(sys.stdout.fileno())
        resize(size.lines, size.columns)

    if not sys.stdout.isatty():
        yield _nothing
        return
    before = signal.signal(signal.SIGWINCH, pass_on)
    try:
        # Not before the program is there: a size that comes earlier gets lost.
        yield pass_on
    finally:
        signal.signal(signal.SIGWINCH, before)


def _nothing() -> None:
    return
