"""`inv shell`: a shell where a step would run, to do by hand what its script does."""

from __future__ import annotations

from dataclasses import replace

from invoke.context import Context
from invoke.tasks import task

from builder.core.config import load_config
from builder.core.errors import UserError
from builder.core.files import remove_tree
from builder.core.output import say
from builder.core.paths import BUILD
from builder.core.progress import Progress
from builder.steps.plan import plan_for
from builder.steps.runner import ensure


@task(
    help={
        "step": "the name of a step, as inv graph shows it",
        "command": "run this instead of an interactive shell, then leave",
    }
)
def shell(c: Context, step: str, command: str = "") -> None:
    """Open a shell in the container of a step, with its inputs and environment in place."""
    with Progress() as progress:
        plan = plan_for(load_config(), [], progress)
        if step not in plan.steps:
            raise UserError(f'there is no step "{step}"', f"there are: {', '.join(plan.steps)}")
        item = plan.steps[step]
        if not item.step.script:
            raise UserError(f"{step} runs on this machine, in no container: see builder/disk")
        before = {name: other for name, other in plan.steps.items() if name in item.step.needs}
        while more := {n for other in before.values() for n in other.step.needs} - before.keys():
            before |= {name: plan.steps[name] for name in more}
        ensure(before, plan.root, plan.engine, progress)

    folder = BUILD / "shell" / step
    remove_tree(folder)
    out, written = folder / "out", folder / "in"
    for path in (out, written):
        path.mkdir(parents=True)
    item.write_contents(written)
    say(f"in/ holds the inputs of {step}; out/ is {out}\nits script by hand: sh -eux in/script")
    argv = ("/bin/sh", "-c", command) if command else ("/bin/sh", "-i")
    job = item.job(plan.root, out, written)
    plan.engine.become_shell(replace(job, argv=argv, env={**job.env, "PS1": f"{step}:\\w # "}))
