"""The one place that runs commands on the host."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from builder.core.errors import UserError
from builder.core.output import say

LOG_TAIL_LINES = 15
REASON_LINES = 10
# What a program says where it fails and goes on: apk, tar and others in capitals, compilers not.
REASON = re.compile(r"\b(ERROR|FATAL|[Ee]rror|[Ff]atal):")

_enders: set[Callable[[], object]] = set()  # each ends something that runs now
_lock = threading.Lock()
_ending = threading.Event()


class CommandError(UserError):
    """A command failed: `output` holds the end of what it printed."""

    def __init__(self, what: str, code: int, output: str, log: Path) -> None:
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        tail = "".join(f"  {line}\n" for line in _telling(output.splitlines()))
        # Some programs go on after that, so it needn't be at the end.
        full = "no space left on device" in output.lower()
        why = "no space left on the disk; make room, then run it again\n" if full else ""
        super().__init__(f"{what} {how}:\n{tail}{why}the whole output: {log}")
        self.output = output


def _telling(lines: list[str]) -> list[str]:
    """The lines that say why a program failed: its errors, with the line before, and its end."""
    end = max(0, len(lines) - LOG_TAIL_LINES)
    errors = [at for at in range(end) if REASON.search(lines[at])]
    before = sorted({near for at in errors for near in (at - 1, at) if near >= 0})[:REASON_LINES]
    return [*(lines[at] for at in before), *(["..."] if before else []), *lines[end:]]


def run(
    argv: Sequence[str | Path],
    *,
    log: Path,
    what: str,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    whole: bool = False,
) -> str:
    """Run `argv` with its output in the file `log`, and return that output.

    Raises CommandError, in which `what` names the work. Files are made with umask 022, because
    their modes end up in what is built. `end_all` ends it from another thread; one that has to be
    done `whole` is waited for.
    """
    words = [str(word) for word in argv]
    log.parent.mkdir(parents=True, exist_ok=True)
    # A file of its own, under the log's name from the start: another process may use that name too,
    # and what this command printed is read back from here.
    descriptor, fresh = tempfile.mkstemp(dir=log.parent, prefix=f".{log.name}-")
    with os.fdopen(descriptor, "w+b") as sink:
        Path(fresh).chmod(0o644)
        Path(fresh).rename(log)
        sink.write(f"+ {shlex.join(words)}\n".encode())
        sink.flush()
        start = sink.tell()
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=env,
                umask=0o022,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
            )
        except FileNotFoundError:
            if Path(words[0]).exists():
                why = "can't be started: what it was built for (glibc, musl) isn't here"
            else:
                why = "is not installed; run: ./inv doctor"
            raise UserError(f"{words[0]} {why}") from None
        end = partial(_wait_for, process, what) if whole else partial(_end, process)
        try:
            with ended_by(end):
                process.wait()
        finally:
            end()
            process.wait()
        sink.seek(start)
        output = sink.read().decode(errors="replace")
    if process.returncode:
        raise CommandError(what, process.returncode, output, log)
    return output


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command, if it hasn't ended, and what it started.

    All at once: a bwrap that ends before its child has set itself to die with it leaves it behind.
    """
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _wait_for(process: subprocess.Popen[bytes], what: str) -> None:
    """Let a command end by itself. Who doesn't want to wait leaves it to it."""
    if process.poll() is None:
        say(f"{what} can't be ended in the middle: waiting; Ctrl-C again lets it go on unseen")
        process.wait()


def start_over() -> None:
    """Let commands start again after `end_all`."""
    _ending.clear()


@contextmanager
def ended_by(end: Callable[[], object]) -> Iterator[None]:
    """While the block runs, `end_all` calls `end`. Raises KeyboardInterrupt if it was called."""
    # Under the lock, so that nothing starts unseen while all is being ended.
    with _lock:
        _enders.add(end)
        if _ending.is_set():
            end()
    try:
        yield
    finally:
        with _lock:
            _enders.discard(end)
    if _ending.is_set():
        raise KeyboardInterrupt


def end_all() -> None:
    """End everything that runs: for Ctrl-C. What starts afterwards is ended at once."""
    with _lock:
        _ending.set()
        for end in _enders:
            end()
