"""Shows what is going on while it lasts, and a table when it is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from invoke.exceptions import Exit
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from builder.core.output import say

if TYPE_CHECKING:
    from builder.steps.runner import Outcome

SHOW_AFTER_S = 1.0  # what is done before that needs no progress
LINE_EVERY_S = 10.0  # where the output is no terminal


def human_size(size: int) -> str:
    """`size` bytes for people: `1.4 MiB`."""
    amount, units = float(size), ["B", "KiB", "MiB", "GiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.1f} {units[0]}"


class Progress:
    """A context in which running work is shown, by name with its seconds, below the other output.

    Where the output is no terminal, each piece of work gets a line when it begins, and one every
    `LINE_EVERY_S` seconds while it lasts.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.built: dict[str, Outcome] = {}  # by step, what was built while this was shown
        self._running: dict[str, tuple[float, str]] = {}
        self._line_due: dict[str, float] = {}
        self._lock = threading.Lock()
        self._live = Live(
            get_renderable=self._render,
            console=self.console,
            transient=True,
            refresh_per_second=8,
            redirect_stdout=False,
        )

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()
        if kind is KeyboardInterrupt:
            raise Exit(
                "interrupted; what was finished stays, the same command goes on from there", 130
            )

    def started(self, name: str, detail: str = "", quiet: bool = False) -> None:
        """`name` goes on, and so far `detail`; called again to change the detail.

        `quiet`: it is mostly over at once, and worth no line where the output is no terminal.
        """
        with self._lock:
            now = time.monotonic()
            fresh = name not in self._running
            since = now if fresh else self._running[name][0]
            self._running[name] = (since, detail)
            if fresh:
                self._line_due[name] = now + LINE_EVERY_S if quiet else now
            if self.console.is_terminal or now < self._line_due[name]:
                return
            self._line_due[name] = now + LINE_EVERY_S
        self.console.print(f"{name}: {detail}" if detail else f"{name} ...", highlight=False)

    def stage(self, name: str, what: str) -> None:
        """`name` has come to its next part, which may take minutes: a line for each."""
        self.stopped(name)
        self.started(name, what)

    @contextmanager
    def transfer(self, name: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
        """A context for bytes on their way: call what it gives with those that came, and all."""
        began = 0.0

        def transferred(done: int, total: int) -> None:
            nonlocal began
            now = time.monotonic()
            began = began or now
            detail = f"{human_size(done)} of {human_size(total)}"
            if done and now - began >= SHOW_AFTER_S:
                detail += f", {(total - done) * (now - began) / done:.0f} s left"
            self.started(name, detail, quiet)

        try:
            yield transferred
        finally:
            self.stopped(name)

    def ended(self, outcome: Outcome) -> None:
        """A step is over."""
        self.stopped(outcome.step)
        if outcome.state == "built":
            self.built[outcome.step] = outcome

    def stopped(self, name: str) -> None:
        """`name` is over."""
        with self._lock:
            self._running.pop(name, None)

    def _render(self) -> Table:
        table = Table.grid(padding=(0, 1))
        now = time.monotonic()
        with self._lock:
            for name, (since, detail) in self._running.items():
                if now - since >= SHOW_AFTER_S:
                    table.add_row(Spinner("dots"), name, f"{now - since:.0f} s", detail)
        return table


def show_outcomes(outcomes: list[Outcome], seconds: float) -> None:
    """The closing table: each step, whether it was built, its time and its size."""
    rows = [
        (
            outcome.step,
            outcome.state,
            f"{outcome.seconds:.2f}",
            human_size(outcome.size),
            " ".join(f"build/{name}" for name in outcome.files),
        )
        for outcome in outcomes
    ]
    table(("step", "", "seconds", "size", "file"), [*rows, ("all", "", f"{seconds:.2f}", "", "")])
    for outcome in outcomes:
        if outcome.note and outcome.state == "built":
            say(f"{outcome.step}: {outcome.note}")


NUMBERS = ("seconds", "size", "MiB", "of the tools alone")  # columns that read best on the right


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Show rows under titles, on stderr."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        shown.add_column(title, justify="right" if title in NUMBERS else "left")
    for row in rows:
        shown.add_row(*row)
    Console(stderr=True).print(shown)
