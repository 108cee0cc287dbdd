"""`inv release`: makes a release of a tag, and looks at those that were made."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from builder.core.config import load_config
from builder.core.errors import UserError
from builder.core.output import say, show_json
from builder.core.paths import BUILD
from builder.core.progress import Progress, human_size
from builder.steps.plan import Plan, build, plan_for

if TYPE_CHECKING:
    from builder.releases.deltas import Prove

FILES_SHOWN = 40


@task(
    default=True,
    help={
        "tag": "the git tag of the release, such as v1.2.3: HEAD must be there, without changes",
        "key": "the private key that signs, if you have several",
        "sample": "allow the packages of the sample mirror",
        "json": "print the manifest as JSON",
    },
)
def make(c: Context, tag: str, key: str = "", sample: bool = False, json: bool = False) -> None:
    """Build the tree of a git tag for each architecture of image.toml, and store it signed."""
    from builder.releases.keys import signer
    from builder.releases.make import (
        config_of_tag,
        make_release,
        require_lock,
        require_same_commit,
        store_of,
    )

    configs = [config_of_tag(config, tag) for config in load_config().each_arch()]
    version = configs[0].os.version
    is_made = [store_of(config).release(version).exists() for config in configs]
    if all(is_made):
        raise UserError(
            f"release {version} exists already, in {store_of(configs[0]).folder}",
            "a release never changes: take the next version",
        )
    for config in configs:
        require_lock(config, sample)
        require_same_commit(config)
    with Progress() as progress:
        for config in configs:  # what one of them lacks is seen before the long work
            plan_for(config, ["image"], progress)
    if configs[0].login.console == "development":
        say("note: root has no password on the console of this release ([login] in image.toml)")
    sign = signer(key)
    made = []
    for config in configs:
        store, arch = store_of(config), config.alpine.arch
        if store.release(version).exists():
            say(f"release {version} for {arch} exists already")
            continue
        build(c, "image", config)
        config_of_tag(config, tag)  # a build that changes apk.lock is not of this tag
        with Progress() as progress:
            prove = _programs(plan_for(config, ["chroot"], progress))
            manifest, news = make_release(config, store, sign, prove, progress)
        made.append(asdict(manifest))
        for line in [] if json else news:
            say(line)
        size = human_size(manifest.slot.blob.size)
        say(f"release {version} for {arch}: a node fetches {size} at most")
    if json:
        show_json(made if len(configs) > 1 else made[0])
        return
    say(f"try it: ./inv release.test {version}; publish it: ./inv upload --channel NAME")
    for config in configs[1:]:
        arch = config.alpine.arch
        say(f"try that for {arch}: BELAY_ALPINE_ARCH={arch} ./inv release.test {version}")


def _programs(plan: Plan) -> Prove:
    """What packs by the programs of older releases, in the engine of the plan."""
    from builder.releases.proof import programs_of

    return partial(programs_of, plan.engine, plan.root, plan.config.alpine.arch)


@task(help={"version": "the release, such as 1.2.3", "json": "print its manifest as JSON"})
def verify(c: Context, version: str, json: bool = False) -> None:
    """Check the signature of a release and every byte of it."""
    from builder.releases.make import store_of, trusted_keys
    from builder.releases.publish import verify_release
    from updater.source import Folder

    store = store_of(load_config())
    manifest = store.manifest(version, trusted_keys())
    with Progress() as progress:
        verify_release(Folder(store.folder), manifest, progress)
    if json:
        show_json(asdict(manifest))
        return
    say(f"release {version} is whole, and signed by a key of this image")


@task(
    help={
        "version": "the release, such as 1.2.3",
        "before": "the release that the machine runs first (default: the newest older one)",
        "json": "print the outcome as JSON",
    }
)
def test(c: Context, version: str, before: str = "", json: bool = False) -> None:
    """Try a release in a virtual machine: update to it, boot it, run its own health checks.

    The machine starts with the release before it; the first release updates to itself.
    """
    from builder.releases.make import store_of
    from builder.vm.release_trial import tried

    config = load_config()
    store = store_of(config)
    trial = tried(config, store, version, before)
    if json:
        show_json(asdict(trial))
    say(str(trial))
    if trial.rejected:
        raise Exit(code=1)


@task(
    help={
        "before": "a release, such as 1.2.2",
        "after": "a later one, such as 1.2.3",
        "json": "print the changes as JSON",
    }
)
def diff(c: Context, before: str, after: str, json: bool = False) -> None:
    """Show what differs between two releases: packages and files."""
    from builder.artefacts.listing import Lister, differences
    from builder.releases.changes import changes
    from builder.releases.chunks import unpack_xz
    from builder.releases.make import price, store_of, summary, trusted_keys

    config = load_config()
    store, keys = store_of(config), trusted_keys()
    old, new = (store.manifest(version, keys) for version in (before, after))
    found = changes(summary(store, old), summary(store, new))
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="diff-") as scratch, Progress() as progress:
        plan = plan_for(config, ["chroot"], progress)
        listings = []
        for manifest in (old, new):
            progress.started("reading", manifest.version)
            slot = Path(scratch) / manifest.version
            unpack_xz(store.blobs / manifest.slot.blob.sha256, slot)
            listings.append(Lister(plan.engine, plan.root).files(slot))
        progress.stopped("reading")
    files, cost = differences(*listings), price(store, new, before)
    if json:
        show_json({**asdict(found), "files": files, "price": asdict(cost) if cost else None})
        return
    unpriced = f"from {before}: no delta; {human_size(new.slot.blob.size)} to fetch, all of it"
    for line in [*found.lines(), f"  {cost or unpriced}"]:
        print(line)
    for name, what in list(files.items())[:FILES_SHOWN]:
        print(f"  {name}: {what}")
    if len(files) > FILES_SHOWN:
        print(f"  and {len(files) - FILES_SHOWN} more files: --json has all")


@task(help={"json": "print the prices as JSON"})
def plan(c: Context, json: bool = False) -> None:
    """Show what nodes of each release would fetch if this tree were released, and why."""
    from builder.releases.make import planned, require_budget, store_of

    config = load_config()
    store = store_of(config)
    if not store.versions():
        raise UserError(
            f"{store.folder} has no release yet", "make one: ./inv release --tag v1.0.0"
        )
    build(c, "slot", config)
    with Progress() as progress:
        steps = plan_for(config, ["chroot"], progress)
        prices = planned(steps.config, store, _programs(steps), progress)
    if json:
        show_json([asdict(price) for price in prices])
        return
    for price in prices:
        print(price)
    require_budget(config, prices)


namespace = Collection(make, verify, test, diff, plan)
