"""Runs the shell scripts of this folder in the build container."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from builder.core.paths import BUILD, LOGS
from builder.engines.engine import SCRIPT_ARGV, Job
from builder.steps.plan import Plan

HERE = Path(__file__).parent


def run_script(
    plan: Plan, name: str, out: Path, inputs: Mapping[str, Path], env: Mapping[str, str]
) -> None:
    """Run `NAME.sh`, which leaves in `out` what it makes. Raises CommandError."""
    inputs = {"script": HERE / f"{name}.sh", **inputs}
    job = Job(name, plan.root, SCRIPT_ARGV, out, inputs, env)
    plan.engine.run(job, LOGS / f"bench-{name}.log")


def built(*names: str) -> dict[str, Path]:
    """Artefacts of `build/` as inputs."""
    return {name: (BUILD / name).resolve() for name in names}
