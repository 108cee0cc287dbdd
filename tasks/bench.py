"""`inv bench WHAT`: figures of this machine, each beside something honest to hold it against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from invoke.context import Context
from invoke.tasks import task

from builder.core.errors import UserError
from builder.core.options import whole_number
from builder.core.output import say, show_json
from builder.core.progress import Progress, table


@task(
    positional=["what"],
    help={
        "what": "build: all kinds; boot: until the login; ram: memory used then; update: an update",
        "times": "how often to measure; the median counts",
        "json": "print the figures as JSON",
    },
)
def bench(c: Context, what: str, times: str = "3", json: bool = False) -> None:
    """Measure on this machine builds, boots and updates, or the memory that a node needs."""
    kinds: dict[str, Callable[[Context, int, bool], None]] = {
        "boot": _boot,
        "build": _build,
        "ram": _ram,
        "update": _update,
    }
    if what not in kinds:
        raise UserError(f'there is no benchmark "{what}"', f"there are: {', '.join(kinds)}")
    kinds[what](c, whole_number("times", times, 1, 99), json)


def _build(_context: Context, times: int, json: bool) -> None:
    from builder.benchmarks.build import FLOOR, build_timings
    from builder.benchmarks.hardware import hardware_usages

    timings, usages = [], []
    with Progress() as progress:
        for timing in build_timings(progress, times):
            progress.started(f"{timing.what}: {timing.seconds:.2f} s")
            timings.append(timing)
        for usage in hardware_usages(progress):
            progress.started(f"lts: {usage.what}: {usage.seconds:.2f} s")
            usages.append(usage)
    if json:
        show_json(
            {
                "builds": [asdict(figure) for figure in timings],
                "lts": [asdict(figure) for figure in usages],
            }
        )
        return
    floor = next(timing.seconds for timing in timings if timing.what == FLOOR)
    table(
        ("build", "seconds", "of the tools alone"),
        [(t.what, f"{t.seconds:.2f}", f"{t.seconds / floor:.2f}") for t in timings],
    )
    rows = [
        (f"lts: {u.what}", f"{u.seconds:.1f}", f"{u.memory_mib:.0f}", f"{u.result_mib:.0f}")
        for u in usages
    ]
    table(("build", "seconds", "MiB of memory", "MiB of result"), rows)


def _boot(c: Context, _times: int, json: bool) -> None:
    from builder.benchmarks.boot import boot_figures

    with Progress() as progress:
        figures, idle = boot_figures(c, progress)
    if json:
        show_json({"boots": [asdict(figure) for figure in figures], "idle": asdict(idle)})
        return
    rows = [
        (
            figure.what,
            f"{figure.seconds:.1f}",
            f"{figure.services_seconds:.1f}",
            f"{figure.mib:.0f}",
        )
        for figure in figures
    ]
    table(("seconds until", "the login", "all services", "MiB"), rows)
    say(
        f"an apply of the site that changes nothing: {idle.apply_seconds:.2f} s, "
        f"of which Python takes {idle.python_seconds:.2f} to start"
    )


def _ram(c: Context, _times: int, json: bool) -> None:
    from builder.benchmarks.ram import ram_usage

    with Progress() as progress:
        usages = ram_usage(c, progress)
    if json:
        show_json([asdict(usage) for usage in usages])
        return
    table(("system", "MiB"), [(usage.what, f"{usage.mib:.0f}") for usage in usages])


def _update(c: Context, times: int, json: bool) -> None:
    from builder.benchmarks.update import update_figures

    with Progress() as progress:
        figures = update_figures(c, progress, times)
    if json:
        show_json([asdict(figure) for figure in figures])
        return
    table(
        ("", "figure", ""),
        [(figure.what, f"{figure.value:.2f}", figure.unit) for figure in figures],
    )
