"""`inv bench WHAT`: figures of this machine, each beside something honest to hold it against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from invoke.context import Context
from invoke.tasks import task

from builder.core.errors import UserError
from builder.core.files import write_atomically
from builder.core.options import whole_number
from builder.core.output import say, show_json
from builder.core.progress import Progress, table

if TYPE_CHECKING:  # what draws them is only needed by one task
    from builder.benchmarks.page import Table


class Outcome(NamedTuple):
    """The figures of a benchmark: for programs, in tables, and in a sentence beside them."""

    values: Any
    tables: list[Table]
    note: str = ""


@task(
    positional=["what"],
    auto_shortflags=False,  # -h is for help
    help={
        "what": "build: all kinds; boot: until the login; ram: memory used then; update: an "
        "update; all: one after the other",
        "times": "how often to measure; the median counts",
        "html": "write a page with tables, bars and explanations to this file",
        "json": "print the figures as JSON",
    },
)
def bench(c: Context, what: str, times: str = "3", html: str = "", json: bool = False) -> None:
    """Measure on this machine builds, boots and updates, or the memory that a node needs."""
    # By the chapters of docs/performance.md.
    kinds: dict[str, tuple[str, Callable[[Context, int], Outcome]]] = {
        "build": ("Builds", _build),
        "boot": ("Boots", _boot),
        "ram": ("Memory", _ram),
        "update": ("Updates", _update),
    }
    if what not in (*kinds, "all"):
        raise UserError(f'there is no benchmark "{what}"', f"there are: {', '.join(kinds)}, all")
    count = whole_number("times", times, 1, 99)
    if html:
        Path(html).open("ab").close()  # if it can't be written, that is better known before
    chosen = kinds if what == "all" else {what: kinds[what]}
    found = {name: measure(c, count) for name, (_, measure) in chosen.items()}
    if html:
        from builder.benchmarks.page import page

        chapters = {kinds[name][0]: outcome.tables for name, outcome in found.items()}
        write_atomically(Path(html), page(chapters).encode())
    if json:
        values = {name: outcome.values for name, outcome in found.items()}
        show_json(values if what == "all" else values[what])
        return
    for outcome in found.values():
        for item in outcome.tables:
            table(item.titles, item.cells())
        if outcome.note:
            say(outcome.note)


def _build(_context: Context, times: int) -> Outcome:
    from builder.benchmarks.build import FLOOR, build_timings
    from builder.benchmarks.hardware import hardware_usages
    from builder.benchmarks.page import Row, Table

    timings, usages = [], []
    with Progress() as progress:
        for timing in build_timings(progress, times):
            progress.started(f"{timing.what}: {timing.seconds:.2f} s")
            timings.append(timing)
        for usage in hardware_usages(progress):
            progress.started(f"lts: {usage.what}: {usage.seconds:.2f} s")
            usages.append(usage)
    floor = next(timing.seconds for timing in timings if timing.what == FLOOR)
    return Outcome(
        {
            "builds": [asdict(figure) for figure in timings],
            "lts": [asdict(figure) for figure in usages],
        },
        [
            Table(
                ("build", "seconds", "of the tools alone"),
                tuple(Row(t.what, (t.seconds, t.seconds / floor)) for t in timings),
                (2, 2),
            ),
            Table(
                ("build", "seconds", "MiB of memory", "MiB of result"),
                tuple(
                    Row(f"lts: {u.what}", (u.seconds, u.memory_mib, u.result_mib)) for u in usages
                ),
                (1, 0, 0),
            ),
        ],
    )


def _boot(c: Context, _times: int) -> Outcome:
    from builder.benchmarks.boot import boot_figures
    from builder.benchmarks.page import Row, Table

    with Progress() as progress:
        figures, idle = boot_figures(c, progress)
    rows = (Row(boot.what, (boot.seconds, boot.services_seconds, boot.mib)) for boot in figures)
    return Outcome(
        {"boots": [asdict(figure) for figure in figures], "idle": asdict(idle)},
        [Table(("seconds until", "the login", "all services", "MiB"), tuple(rows), (1, 1, 0))],
        f"an apply of the site that changes nothing: {idle.apply_seconds:.2f} s, "
        f"of which Python takes {idle.python_seconds:.2f} to start",
    )


def _ram(c: Context, _times: int) -> Outcome:
    from builder.benchmarks.page import Row, Table
    from builder.benchmarks.ram import ram_usage

    with Progress() as progress:
        usages = ram_usage(c, progress)
    rows = tuple(Row(usage.what, (usage.mib,)) for usage in usages)
    return Outcome([asdict(usage) for usage in usages], [Table(("system", "MiB"), rows, (0,))])


def _update(c: Context, times: int) -> Outcome:
    from builder.benchmarks.page import Row, Table
    from builder.benchmarks.update import update_figures

    with Progress() as progress:
        figures = update_figures(c, progress, times)
    rows = tuple(Row(figure.what, (figure.value,), figure.unit) for figure in figures)
    return Outcome([asdict(figure) for figure in figures], [Table(("", "figure", ""), rows, (2,))])
