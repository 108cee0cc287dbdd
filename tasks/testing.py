"""`inv test` and `inv fix`: the linters and the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from builder.core.config import load_config
from builder.core.errors import UserError
from builder.core.git import git
from builder.core.host import TESTS_USE, require_program, require_programs
from builder.core.output import say
from builder.core.paths import BUILD, PROJECT

PYTHON = [sys.executable, "-m"]
TOOLS = Path(sys.executable).parent


SHELLS = (b"#!/bin/sh\n", b"#!/sbin/openrc-run\n")


def shell_scripts() -> list[str]:
    """Every shell script of the project, told by its first line."""
    listing = git("ls-files", "--cached", "--others", "--exclude-standard") or ""
    return [
        name
        for name in listing.splitlines()
        if (path := PROJECT / name).is_file() and path.read_bytes().startswith(SHELLS)
    ]


def _tool(name: str) -> str:
    """A linter of .venv, or the system's, as there is none for musl."""
    own = TOOLS / name
    return str(own) if own.exists() else require_program(name)


def _run_all(commands: list[list[str]], **env: str) -> None:
    failed = []
    for command in commands:
        say("+ " + " ".join([Path(command[0]).name, *command[1:]]))
        if subprocess.run(command, cwd=PROJECT, env={**os.environ, **env}, check=False).returncode:
            failed.append(command)
    if failed:
        raise Exit(code=1)


@task(
    help={
        "quick": "only the linters and the unit tests",
        "only": "a selection of tests, as for pytest -k",
    }
)
def test(c: Context, quick: bool = False, only: str = "") -> None:
    """Run the linters and the tests."""
    scripts = shell_scripts()
    _run_all(
        [
            [*PYTHON, "ruff", "check", "--quiet"],
            [*PYTHON, "ruff", "format", "--check", "--quiet"],
            [*PYTHON, "mypy"],
            [_tool("shellcheck"), "--external-sources", *scripts],
            [_tool("shfmt"), "-d", *scripts],
        ]
    )
    if not quick:
        _look_at_programs()
    # Virtual machines take one processor each, and much longer than other tests. Now and then they
    # wait, for a network or a watchdog: three keep two processors busy.
    # In the order of tests/conftest.py.
    everything = ["--numprocesses", "3", "--no-loadscope-reorder"]
    selection = ["-m", "not container and not vm"] if quick else everything
    selection += ["-k", only] if only else []
    # An emulated processor translates a program anew wherever it begins at a new address: boots
    # would take a third longer. Nobody is to ship such an image, so it lies apart.
    fixed = f"{load_config().boot.cmdline} norandmaps"
    _run_all(
        [[*PYTHON, "pytest", *selection]],
        BELAY_OUTPUT=str(BUILD / "tests"),
        BELAY_LOCK=str(BUILD / "tests" / "apk.lock"),
        BELAY_ALPINE_MIRROR="sample",  # the same packages everywhere
        BELAY_BOOT_CMDLINE=fixed,
    )


def _look_at_programs() -> None:
    """See before the long wait whether all tests can run."""
    try:
        require_programs(TESTS_USE)
    except UserError as error:
        if os.environ.get("CI"):
            raise
        say(f"{error}\ntests that need them are skipped")


@task
def fix(c: Context) -> None:
    """Format the code, and fix what the linters can fix themselves."""
    _run_all(
        [
            [*PYTHON, "ruff", "check", "--fix", "--quiet"],
            [*PYTHON, "ruff", "format", "--quiet"],
            [_tool("shfmt"), "-w", *shell_scripts()],
        ]
    )
