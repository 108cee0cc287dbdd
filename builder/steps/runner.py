"""Runs the steps that are wanted and not built yet, independent ones side by side."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Protocol

from builder.core import commands
from builder.core.cache import mark_used
from builder.core.commands import CommandError
from builder.core.errors import UserError
from builder.core.files import folder_for, only_one, remove_tree
from builder.core.paths import BUILD, LOGS
from builder.engines.engine import Engine
from builder.steps.step import RECORD, Keyed, Step

NOTE = "note"  # the file in which a step may say something of its result


@dataclass(frozen=True)
class Outcome:
    """What became of a step: `state` is built or cached, `size` the bytes of its outputs."""

    step: str
    state: str
    seconds: float
    size: int
    files: tuple[str, ...]
    note: str = ""  # what the step says of its result, in a line


class Watcher(Protocol):
    """Is told what goes on, to show it."""

    def started(self, step: str) -> None:
        """A step begins to run."""

    def ended(self, outcome: Outcome) -> None:
        """A step is done."""


def run_order(steps: Mapping[str, Step], targets: Iterable[str]) -> list[str]:
    """The names of `targets` and of all that they need, each after those it needs."""
    wanted: set[str] = set()
    queue = list(targets)
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue += steps[name].needs
    return list(
        TopologicalSorter(
            {name: sorted(steps[name].needs) for name in sorted(wanted)}
        ).static_order()
    )


def ensure(
    plan: Mapping[str, Keyed],
    root: Path,
    engine: Engine,
    watcher: Watcher,
    force: Iterable[str] = (),
) -> list[Outcome]:
    """Build what isn't built, and link all results into `build/`; `force` names steps to repeat.

    Raises the first error; steps that run beside it are ended, what was finished stays.
    """
    commands.start_over()
    sorter = TopologicalSorter({name: item.step.needs for name, item in plan.items()})
    sorter.prepare()
    outcomes: dict[str, Outcome] = {}
    pool = ThreadPoolExecutor(len(plan) or 1)
    running: dict[Future[Outcome], str] = {}
    try:
        while sorter.is_active():
            for name in sorter.get_ready():
                work = pool.submit(_ensure_one, plan[name], root, engine, watcher, name in force)
                running[work] = name
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(done)
                outcomes[name] = done.result()
                watcher.ended(outcomes[name])
                sorter.done(name)
    except BaseException:
        commands.end_all()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return [outcomes[name] for name in plan]


def _ensure_one(
    item: Keyed, root: Path, engine: Engine, watcher: Watcher, force: bool = False
) -> Outcome:
    start = time.monotonic()
    state = "cached"
    if force or not item.is_built:
        with only_one(item.key):
            if force or not item.is_built:  # another process did meanwhile
                state = "built"
                watcher.started(item.step.name)
                _build(item, root, engine)
    mark_used(item.place)
    for name in item.step.outputs:
        _link(BUILD / name, item.place / name)
    size = sum((item.place / name).stat().st_size for name in item.step.outputs)
    note = json.loads((item.place / RECORD).read_text()).get("note", "")
    seconds = time.monotonic() - start
    return Outcome(item.step.name, state, seconds, size, item.step.outputs, note)


def _build(item: Keyed, root: Path, engine: Engine) -> None:
    step = item.step
    start = time.monotonic()
    log = LOGS / f"{step.name}.log"
    with folder_for(item.place) as result:
        out, written = result / ".work", result / ".inputs"
        for folder in (out, written):
            folder.mkdir()
            folder.chmod(0o755)
        item.write_contents(written)
        try:
            if step.script:
                engine.run(item.job(root, out, written), log)
        except CommandError as error:
            reason = step.explain(error) if step.explain else error
            look = f"\nto look around in it: ./inv shell {step.name}" if reason is error else ""
            raise UserError(f"{reason}{look}") from None
        if step.finish:
            step.finish(out, item.paths(written))
        note = (out / NOTE).read_text().strip() if (out / NOTE).exists() else ""
        seconds = time.monotonic() - start
        record = {"parts": dict(item.parts), "seconds": seconds, "note": note}
        (result / RECORD).write_text(json.dumps(record, indent=1))
        for name in step.outputs:
            if not (out / name).exists():
                raise UserError(f"step {step.name} made no {name}", f"its output: {log}")
            (out / name).rename(result / name)
        remove_tree(out)
        remove_tree(written)
        if item.is_built:  # it was forced: another process may be reading what is there
            for path in result.iterdir():
                path.replace(item.place / path.name)


def _link(link: Path, target: Path) -> None:
    """Make `link` point to `target`, at no time to nothing."""
    if link.is_symlink() and link.readlink() == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.rename(link)
