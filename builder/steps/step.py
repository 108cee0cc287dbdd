"""A step: one cached unit of the build, and the key that says whether its result is still good."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from builder.core.commands import CommandError
from builder.core.errors import UserError
from builder.core.paths import CACHE, PROJECT
from builder.core.sources import files_below, gather
from builder.engines.engine import BASE_ENV, SCRIPT_ARGV, Job

# What a line of a module imports of the project; several names may be in brackets.
IMPORT = re.compile(
    r"^ *(?:from|import) ((?:builder|updater)[\w.]*)(?: import (\([^)]*\)|[^\n(]*))?", re.MULTILINE
)
RECORD = ".record.json"  # beside the outputs: what they were made of, and how long that took


@dataclass(frozen=True)
class Result:
    """An input that another step makes."""

    step: str
    file: str


@dataclass(frozen=True)
class Known:
    """An input whose identity is known without reading it."""

    path: Path
    digest: str


@dataclass(frozen=True)
class Content:
    """An input that is a small file with this content."""

    data: bytes


Input = Path | Result | Known | Content


@dataclass(frozen=True)
class Step:
    """A shell script that runs in the container, and all that it depends on.

    A plain path among the inputs is a file or folder of the project, hashed with its content; of a
    folder the job sees what counts (`core/sources.py`).
    `finish` does on the host what the container has no tool for, or what would only carry large
    files in and out of it; a step without a script has nothing else. It is given the folder of
    outputs and the paths of all inputs, also of `host_inputs`, which the container doesn't see.
    `explain` says what a failure of the script means, where that is known.
    """

    name: str
    outputs: tuple[str, ...]
    script: Path | None = None
    inputs: Mapping[str, Input] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    finish: Callable[[Path, Mapping[str, Path]], None] | None = None
    host_inputs: Mapping[str, Input] = field(default_factory=dict)
    note_owners: bool = False  # see Job
    explain: Callable[[CommandError], UserError] | None = None
    emulated: str = ""  # see Job

    @property
    def argv(self) -> tuple[str, ...]:
        """What runs in the container."""
        return SCRIPT_ARGV

    @property
    def all_inputs(self) -> dict[str, Input]:
        """Those of the container, and those of `finish`."""
        return {**self.inputs, **self.host_inputs}

    @property
    def needs(self) -> set[str]:
        """The names of the steps whose results go in."""
        return {item.step for item in self.all_inputs.values() if isinstance(item, Result)}


@dataclass(frozen=True)
class Keyed:
    """A step with its key, and with the keys of the steps before it."""

    step: Step
    key: str
    before: Mapping[str, str]
    parts: Mapping[str, str]  # what the key is the hash of: the identity of all that goes in

    @property
    def place(self) -> Path:
        """The folder that has its outputs, if it was built."""
        return CACHE / "results" / self.key

    @property
    def is_built(self) -> bool:
        """Whether this very result is there: it got its name when it was complete."""
        return self.place.is_dir()

    def paths(self, scratch: Path) -> dict[str, Path]:
        """Where each input is; contents and folders are to be written to `scratch`.

        Results are there once the steps before it ran.
        """
        paths = {"script": self.step.script} if self.step.script else {}
        for name, item in self.step.all_inputs.items():
            if isinstance(item, Result):
                paths[name] = CACHE / "results" / self.before[item.step] / item.file
            elif isinstance(item, Known):
                paths[name] = item.path
            elif isinstance(item, Content) or item.is_dir():
                paths[name] = scratch / name
            else:
                paths[name] = item
        return paths

    def job(self, root: Path, out: Path, scratch: Path) -> Job:
        """The step as a job of an engine."""
        seen = {
            name: path
            for name, path in self.paths(scratch).items()
            if name not in self.step.host_inputs
        }
        step = self.step
        return Job(step.name, root, step.argv, out, seen, step.env, step.note_owners, step.emulated)

    def write_contents(self, scratch: Path) -> None:
        """Write the inputs that are contents, and folders as far as they count."""
        for name, item in self.step.inputs.items():
            if isinstance(item, Content):
                (scratch / name).write_bytes(item.data)
            elif isinstance(item, Path) and item.is_dir():
                gather(item, scratch / name)


def keyed(steps: Mapping[str, Step], order: list[str], container_digest: str) -> dict[str, Keyed]:
    """The steps in `order`, in which each comes after those it needs, with their keys."""
    done: dict[str, Keyed] = {}
    for name in order:
        step = steps[name]
        before = {need: done[need].key for need in sorted(step.needs)}
        parts = {"outputs": " ".join(step.outputs)}
        if step.script:
            parts |= {"container": container_digest, "script": tree_digest(step.script)}
            parts |= {"command": shlex.join(step.argv), "owners": str(step.note_owners)}
            parts |= {f"${entry}": value for entry, value in {**BASE_ENV, **step.env}.items()}
        for entry, item in step.all_inputs.items():
            parts[entry] = _digest(item, before)
        if step.finish:
            parts["finish"] = f"{step.finish.__module__}.{step.finish.__name__}"
            parts |= code_digests(step.finish.__module__)
        text = json.dumps([name, parts], sort_keys=True)
        key = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        done[name] = Keyed(step, key, before, parts)
    return done


@cache
def code_digests(module: str, project: Path = PROJECT) -> dict[str, str]:
    """The hashes of a module's file, and of all of the project that it imports, and so on.

    Read from the text, as a module that a function imports counts too, and is not loaded yet.
    """
    found: dict[str, str] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        path = project / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        file = path.relative_to(project).as_posix()
        if file in found or not path.is_file():  # what is imported of a module is no module
            continue
        text = path.read_text()
        found[file] = hashlib.sha256(text.encode()).hexdigest()
        for origin, names in IMPORT.findall(text):
            queue += [origin, *(f"{origin}.{name}" for name in re.findall(r"\w+", names))]
    return found


def _digest(item: Input, before: Mapping[str, str]) -> str:
    if isinstance(item, Result):
        return f"{before[item.step]}/{item.file}"
    if isinstance(item, Content):
        return hashlib.sha256(item.data).hexdigest()
    return item.digest if isinstance(item, Known) else tree_digest(item)


def tree_digest(path: Path) -> str:
    """The hash of a file, or of a folder with all that counts: names, content, the x bit, symlinks.

    That is what git keeps; so a clone by another user under another umask has the same hash.
    """
    if not path.exists():
        raise UserError(f"{path.relative_to(PROJECT)} is missing", "git checkout brings it back")
    total = hashlib.sha256()
    for file in files_below(path) if path.is_dir() else [path]:
        name = os.fsencode(file.relative_to(path))
        if file.is_symlink():
            total.update(b"%s link %s\n" % (name, os.fsencode(file.readlink())))
        else:
            status = file.stat()
            total.update(b"%s file %d %d\n" % (name, status.st_mode & 0o100, status.st_size))
            total.update(file.read_bytes())
    return total.hexdigest()
