"""The small interface that every container engine has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol


@dataclass(frozen=True)
class Job:
    """One command in a container, and all that it can see.

    It starts in a folder with `in/`, which holds `inputs` by name and can't be written, and `out/`,
    the folder `output` of the host. It has no network, and its environment is `env` alone. Inside
    it is root, and giving a file to another owner succeeds without doing anything, so that the same
    job works for root and for an ordinary user, and leaves files that belong to that user.
    """

    name: str
    root: Path  # the file system that it runs in, read-only
    argv: tuple[str, ...]
    output: Path
    inputs: Mapping[str, Path] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    note_owners: bool = False
    emulated: str = ""  # the architecture of which it runs programs too, where that is another


BASE_ENV = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}

# Runs the input `script`.
SCRIPT_ARGV = ("/bin/sh", "-eu", "in/script")
# What a root needs for a job to run in it; the engines mount something on each.
MOUNT_POINTS = ("dev", "proc", "run", "srv", "tmp")


class Engine(Protocol):
    """Runs jobs."""

    @property
    def name(self) -> str:
        """What `image.toml` calls it."""

    def check(self) -> str:
        """What runs jobs here, for people. Raises UserError, which says why nothing does."""

    def describe(self, job: Job) -> list[str]:
        """The command that runs `job`, for people to read and to try."""

    def become_shell(self, job: Job) -> NoReturn:
        """Replace this process by `job`, with the terminal it has: for looking around by hand."""

    def run(self, job: Job, log: Path) -> str:
        """Run `job` and return its output, which is in the file `log` too.

        Raises CommandError when the job fails, UserError when the engine can't run here.
        """
