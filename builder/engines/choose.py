"""Which engine runs the jobs: chosen when the first one has to run, and said."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NoReturn

from builder.core.errors import UserError
from builder.core.output import say
from builder.engines.engine import Engine, Job


class ChosenEngine:
    """The engine that `image.toml` asks for; "auto" is docker where a daemon answers."""

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted

    @property
    def name(self) -> str:
        """The name of the engine that runs."""
        return self.engine.name

    @cached_property
    def engine(self) -> Engine:
        """The engine itself. Raises UserError where it can't run here."""
        from builder.engines.bubblewrap import Bubblewrap
        from builder.engines.docker_engine import Docker

        if self.wanted == "bubblewrap":
            return Bubblewrap()
        docker = Docker()
        try:
            _ = docker.client
        except UserError:
            if self.wanted == "docker":
                raise
            return Bubblewrap()
        if self.wanted == "auto":
            say("steps run in docker, as a daemon answers")
        return docker

    def describe(self, job: Job) -> list[str]:
        """See Engine.describe."""
        return self.engine.describe(job)

    def become_shell(self, job: Job) -> NoReturn:
        """See Engine.become_shell. In bubblewrap unless docker was asked for by name."""
        from builder.engines.bubblewrap import Bubblewrap

        (self.engine if self.wanted == "docker" else Bubblewrap()).become_shell(job)

    def run(self, job: Job, log: Path) -> str:
        """See Engine.run."""
        return self.engine.run(job, log)
