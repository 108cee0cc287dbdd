"""`inv graph` and `inv explain`: what is up to date, what would run, and why."""

from __future__ import annotations

from dataclasses import asdict

from invoke.context import Context
from invoke.tasks import task

from builder.core.config import load_config
from builder.core.errors import UserError
from builder.core.output import say, show_json
from builder.core.progress import Progress, human_size, table
from builder.steps.explain import Report, report
from builder.steps.plan import plan_for


def reports() -> list[Report]:
    """How every step stands."""
    with Progress() as progress:
        plan = plan_for(load_config(), [], progress)
    return [report(item) for item in plan.steps.values()]


@task(
    help={
        "format": "print a picture: dot (graphviz), mermaid, or svg (needs graphviz)",
        "json": "print the steps as JSON",
    }
)
def graph(c: Context, format: str = "", json: bool = False) -> None:
    """Show all steps: what they need, whether they would run, size, and last duration."""
    from builder.steps import pictures

    formats = {"dot": pictures.dot, "mermaid": pictures.mermaid, "svg": pictures.svg}
    if format and format not in formats:
        raise UserError(f'--format: there is no "{format}"', f"there are: {', '.join(formats)}")
    if format and json:
        raise UserError("--format and --json are two answers", "give one of them")
    found = reports()
    if format:
        print(formats[format](found), end="")
    elif json:
        show_json([asdict(item) for item in found])
    else:
        rows = [
            (
                item.step,
                item.state,
                f"{item.seconds:.2f}",
                human_size(item.size),
                " ".join(item.needs),
                "; ".join([*item.changed[:3], *(["..."] if len(item.changed) > 3 else [])]),
            )
            for item in found
        ]
        table(("step", "", "seconds", "size", "needs", "different from build/"), rows)


@task(help={"step": "the name of a step, as inv graph shows it", "json": "print it as JSON"})
def explain(c: Context, step: str, json: bool = False) -> None:
    """Say why a step would run now, or why not."""
    found = {item.step: item for item in reports()}
    if step not in found:
        raise UserError(f'there is no step "{step}"', f"there are: {', '.join(found)}")
    item = found[step]
    if json:
        show_json(asdict(item))
        return
    if item.state == "cached":
        say(f"{step} would not run: a result with all these inputs is there")
        return
    say(f"{step} would run:")
    for line in item.changed:
        say(f"  {line}")
    for need in item.needs:
        if found[need].state != "cached":
            say(f"  {need} would run first: ./inv explain {need}")
