"""`inv release`: makes a release of a tag, and looks at those that were made."""

from __future__ import annotations

from dataclasses import asdict

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from tasks.build import build
from tasks.core.config import load_config
from tasks.core.errors import UserError
from tasks.core.output import say, show_json
from tasks.core.progress import Progress, human_size


@task(
    default=True,
    help={
        "tag": "the git tag of the release, such as v1.2.3: HEAD must be there, without changes",
        "key": "which private key signs, if there are several",
        "json": "print the manifest as JSON",
    },
)
def make(c: Context, tag: str, key: str = "", json: bool = False) -> None:
    """Build the tree of a tag, and keep it as a signed release."""
    from tasks.releases.keys import signer
    from tasks.releases.make import config_of_tag, make_release, store_of

    config = config_of_tag(load_config(), tag)
    store = store_of(config)
    if store.release(config.os.version).exists():
        raise UserError(
            f"release {config.os.version} exists already, in {store.folder}; "
            "a release never changes: take the next version"
        )
    if config.login.console == "development":
        say("note: root has no password on the console of this release ([login] in image.toml)")
    sign = signer(key)
    build(c, "image", config)
    config_of_tag(config, tag)  # a build that changes apk.lock is not of this tag
    with Progress() as progress:
        manifest, news = make_release(config, store, sign, progress)
    if json:
        show_json(asdict(manifest))
        return
    for line in news:
        say(line)
    size = human_size(manifest.slot.blob.size)
    say(
        f"release {manifest.version}: a node fetches {size} at most; "
        f"try it: ./inv release.test {manifest.version}; publish it: ./inv upload --channel NAME"
    )


@task(help={"version": "the release, such as 1.2.3", "json": "print its manifest as JSON"})
def verify(c: Context, version: str, json: bool = False) -> None:
    """Check the signature of a release and every byte of it."""
    from tasks.releases.make import store_of, trusted_keys
    from tasks.releases.publish import verify_release
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
        "before": "a release, such as 1.2.2",
        "after": "a later one, such as 1.2.3",
        "json": "print the changes as JSON",
    }
)
def diff(c: Context, before: str, after: str, json: bool = False) -> None:
    """Show the packages that are different in two releases."""
    from tasks.releases.changes import changes
    from tasks.releases.make import store_of, summary, trusted_keys

    store, keys = store_of(load_config()), trusted_keys()
    old, new = (summary(store, store.manifest(version, keys)) for version in (before, after))
    found = changes(old, new)
    if json:
        show_json(asdict(found))
        return
    for line in found.lines():
        print(line)


namespace = Collection(make, verify, diff)
