"""Steps: what makes one run again, in which order, and what is left where one fails."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

from builder.core.errors import UserError
from builder.core.paths import PROJECT
from builder.engines.engine import BASE_ENV, Job
from builder.steps import explain, runner, step
from builder.steps.explain import report
from builder.steps.runner import Outcome, ensure, run_order
from builder.steps.step import Content, Input, Keyed, Known, Result, Step, keyed


@dataclass
class FakeEngine:
    """Writes each step's outputs: the names and contents of its inputs. Notes what it ran."""

    outputs: Mapping[str, tuple[str, ...]]
    ran: list[str] = field(default_factory=list)
    failing: str = ""
    name = "fake"

    def check(self) -> str:
        return "nothing runs"

    def describe(self, job: Job) -> list[str]:
        return [job.name]

    def become_shell(self, job: Job) -> NoReturn:
        raise NotImplementedError

    def run(self, job: Job, log: Path) -> str:
        if job.name == self.failing:
            (job.output / "half").write_text("half")
            raise UserError("it failed")
        self.ran.append(job.name)
        for name in self.outputs[job.name]:
            inputs = {
                entry: path.read_text() for entry, path in job.inputs.items() if path.is_file()
            }
            (job.output / name).write_text(repr(inputs))
        return ""


class Watcher:
    def started(self, step: str) -> None:
        pass

    def ended(self, outcome: Outcome) -> None:
        pass


def finish(_folder: Path, _inputs: Mapping[str, Path]) -> None:
    """Does nothing."""


class Project:
    """Two steps, `rope` and, from it, `knot`; each attribute is an input that can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.container = "c1"
        self.colour = "red blue"
        self.known = "k1"
        self.content = b"t1"
        for name in ("rope.sh", "knot.sh", "tree/one", "tree/two"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)

    @property
    def steps(self) -> dict[str, Step]:
        rope = Step(
            "rope", ("rope.txt",), self.folder / "rope.sh",
            {"tree": self.folder / "tree", "known": Known(self.folder, self.known)},
            {"COLOUR": self.colour}, finish,
        )  # fmt: skip
        inputs: dict[str, Input] = {"rope.txt": Result("rope", "rope.txt")}
        inputs["text"] = Content(self.content)
        knot = Step("knot", ("knot.txt",), self.folder / "knot.sh", inputs)
        return {"knot": knot, "rope": rope}

    def plan(self) -> dict[str, Keyed]:
        return keyed(self.steps, run_order(self.steps, ["knot"]), self.container)

    def build(self, engine: FakeEngine | None = None) -> list[str]:
        engine = engine or FakeEngine({"rope": ("rope.txt",), "knot": ("knot.txt",)})
        ensure(self.plan(), self.folder, engine, Watcher())
        return engine.ran


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for module in (step, "builder.core.files", "builder.core.cache"):
        name = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{name}.CACHE", tmp_path / "cache")
    for module in (runner, explain):
        monkeypatch.setattr(module, "BUILD", tmp_path / "build")
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project")


def test_nothing_runs_twice(project: Project) -> None:
    assert project.build() == ["rope", "knot"]
    assert project.build() == []
    assert [report(item).state for item in project.plan().values()] == ["cached", "cached"]


def change_file(project: Project) -> None:
    (project.folder / "tree/one").write_text("changed")


def change_mode(project: Project) -> None:
    (project.folder / "tree/one").chmod(0o755)


def add_file(project: Project) -> None:
    (project.folder / "tree/three").write_text("")


def change_script(project: Project) -> None:
    (project.folder / "rope.sh").write_text("changed")


def change_value(project: Project) -> None:
    project.colour = "red green"


def change_known(project: Project) -> None:
    project.known = "k2"


def change_container(project: Project) -> None:
    project.container = "c2"


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (change_file, "tree changed"),
        (change_mode, "tree changed"),
        (add_file, "tree changed"),
        (change_script, "script changed"),
        (change_value, "$COLOUR was 'red blue', is 'red green'"),
        (change_known, "known changed"),
        (change_container, "container changed"),
    ],
)
def test_a_changed_input_is_named_and_runs_the_step_again(
    project: Project, change: Callable[[Project], None], shown: str
) -> None:
    project.build()
    change(project)
    found = report(project.plan()["rope"])
    assert (found.state, found.changed) == ("stale", (shown,))
    assert project.build() == ["rope", "knot"]


def test_a_change_further_on_leaves_the_steps_before_it_alone(project: Project) -> None:
    project.build()
    project.content = b"t2"
    assert report(project.plan()["knot"]).changed == ("text changed",)
    assert project.build() == ["knot"]


def test_going_back_finds_the_former_result(project: Project) -> None:
    project.build()
    project.colour = "green"
    project.build()
    project.colour = "red blue"
    assert report(project.plan()["rope"]).state == "cached"
    assert project.build() == []


def test_of_a_list_only_the_words_that_differ_are_named(project: Project) -> None:
    project.colour = "red blue green"
    project.build()
    project.colour = "red blue black green"
    assert report(project.plan()["rope"]).changed == ("$COLOUR +black",)


def test_a_step_that_fails_leaves_nothing_and_keeps_what_was_before(project: Project) -> None:
    outputs = {"rope": ("rope.txt",), "knot": ("knot.txt",)}
    with pytest.raises(UserError, match="it failed"):
        project.build(FakeEngine(outputs, failing="knot"))
    results = project.folder.parent / "cache" / "results"
    assert [path.name.split("-")[0] for path in results.iterdir()] == ["rope"]
    assert not (project.folder.parent / "build" / "knot.txt").is_symlink()
    assert project.build() == ["knot"]


def test_a_step_without_its_output_is_an_error(project: Project) -> None:
    with pytest.raises(UserError, match=r"step knot made no knot\.txt; its output: "):
        project.build(FakeEngine({"rope": ("rope.txt",), "knot": ()}))


def change_argv(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Step, "argv", ("/bin/sh", "-eux", "in/script"))


def change_base_environment(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "BASE_ENV", {**BASE_ENV, "TZ": "Europe/Paris"})


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (change_argv, "command changed"),
        (change_base_environment, "$TZ was 'UTC', is 'Europe/Paris'"),
    ],
)
def test_how_a_job_is_run_belongs_to_its_key(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Project, pytest.MonkeyPatch], None],
    shown: str,
) -> None:
    project.build()
    change(project, monkeypatch)
    assert report(project.plan()["rope"]).changed == (shown,)


@pytest.mark.parametrize(
    ("file", "belongs"),
    [
        ("alpine/chroot.py", True),
        ("alpine/apk_database.py", True),  # chroot imports it
        ("core/errors.py", True),  # in another folder
        ("vm/machine.py", False),
    ],
)
def test_the_code_of_a_step_is_all_of_the_project_that_it_imports(
    tmp_path: Path, file: str, belongs: bool
) -> None:
    for name in ("before", "after"):
        for folder in ("builder", "updater"):
            shutil.copytree(PROJECT / folder, tmp_path / name / folder)
    with (tmp_path / "after/builder" / file).open("a") as source:
        source.write("# changed\n")
    before, after = (
        step.code_digests("builder.alpine.chroot", tmp_path / name) for name in ("before", "after")
    )
    assert (before != after) is belongs


def test_what_a_function_imports_is_code_of_its_step(tmp_path: Path) -> None:
    folder = tmp_path / "builder"
    folder.mkdir()
    (folder / "one.py").write_text(
        "def one():\n    from builder.two import (\n        two,\n    )\n"
    )
    (folder / "two.py").write_text("from builder import three\n")
    (folder / "three.py").write_text("import json\n")
    first = step.code_digests("builder.one", tmp_path)
    (folder / "three.py").write_text("import re\n")
    step.code_digests.cache_clear()
    assert step.code_digests("builder.one", tmp_path) != first
