"""Which engine runs the jobs: chosen when the first one has to run, and said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from builder.core.arch import ARCHES, host_arch
from builder.core.errors import UserError
from builder.core.output import say
from builder.engines.emulation import is_registered
from builder.engines.engine import Engine, Job

AUTO = "auto"


def _docker() -> Engine:
    from builder.engines.docker_engine import Docker  # slow to come

    return Docker()


def _bubblewrap() -> Engine:
    from builder.engines.bubblewrap import Bubblewrap

    return Bubblewrap()


# What `engine` in [build] of image.toml can name, in the order in which "auto" asks them. The last
# one is taken unasked: its first job says what is wrong.
ENGINES: Mapping[str, Callable[[], Engine]] = {"docker": _docker, "bubblewrap": _bubblewrap}


def candidates(wanted: str, arch: str) -> list[str]:
    """The names of the engines that may build for `arch`, the best one first. Raises UserError.

    In docker's containers no job can register an emulator for itself.
    """
    names = list(ENGINES) if wanted == AUTO else [wanted]
    if arch == host_arch().name or is_registered(ARCHES[arch]):
        return names
    if able := [name for name in names if name != "docker"]:
        return able
    raise UserError(
        f"docker runs no programs of {arch} here",
        'set engine = "bubblewrap" in [build] of image.toml; or register emulators for the whole '
        f"machine, as root: docker run --privileged --rm tonistiigi/binfmt --install {arch}",
    )


class ChosenEngine:
    """The engine that `image.toml` asks for; "auto" is the first one that works here.

    Raises UserError where it can't build for `arch`.
    """

    def __init__(self, wanted: str, arch: str = "") -> None:
        self.candidates = candidates(wanted, arch or host_arch().name)

    @property
    def name(self) -> str:
        """The name of the engine that runs."""
        return self.engine.name

    @cached_property
    def engine(self) -> Engine:
        """The engine itself. Raises UserError where it can't run here."""
        *first, last = self.candidates
        for name in first:
            engine = ENGINES[name]()
            try:
                version = engine.check()
            except UserError:
                continue
            say(f"steps run in {name}, as {version}")
            return engine
        engine = ENGINES[last]()
        if last != list(ENGINES)[-1]:
            engine.check()
        return engine

    def check(self) -> str:
        """See Engine.check."""
        return self.engine.check()

    def describe(self, job: Job) -> list[str]:
        """See Engine.describe."""
        return self.engine.describe(job)

    def become_shell(self, job: Job) -> NoReturn:
        """See Engine.become_shell."""
        self.engine.become_shell(job)

    def run(self, job: Job, log: Path) -> str:
        """See Engine.run."""
        return self.engine.run(job, log)
