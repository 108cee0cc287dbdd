"""`inv site.*`: the configuration of all nodes, in `site/`."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from builder.core.arch import ARCHES
from builder.core.config import load_config
from builder.core.errors import UserError
from builder.core.files import write_atomically
from builder.core.output import say, show_json
from builder.core.paths import BUILD
from builder.core.progress import Progress
from updater.formats import NAME_PATTERN

if TYPE_CHECKING:
    from updater.formats import Channel

VERSION_FILE = "site/version"
ARCHIVE = BUILD / "site.tar.gz"


@task(help={"json": "print version, size and SHA-256 as JSON"})
def build(c: Context, json: bool = False) -> None:
    """Pack site/ into build/site.tar.gz, the same bytes on every machine."""
    from builder.releases.site import build_site, site_version

    data = build_site()
    write_atomically(ARCHIVE, data)
    outcome = {
        "version": site_version(),
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    if json:
        show_json(outcome)
    else:
        say(f"{ARCHIVE}: site {outcome['version']}, {outcome['size']} bytes")


@task(
    help={
        "channel": "the channel whose nodes get it",
        "new": "make a channel that doesn't exist yet",
        "to": "a folder, or host:folder over SSH (default: to in [publish])",
        "key": "the private key that signs it, if you have several",
        "json": "print the signed pointer as JSON",
    }
)
def publish(
    c: Context, channel: str, to: str = "", new: bool = False, key: str = "", json: bool = False
) -> None:
    """Publish site/ for the nodes of a channel; each tries it, and keeps it if it stays healthy."""
    from builder.releases.keys import signer
    from builder.releases.make import trusted_keys
    from builder.releases.publish import (
        SITE,
        check_channel_name,
        current_channel,
        move_channel,
        require_channel,
    )
    from builder.releases.site import build_site, site_version
    from builder.releases.targets import target_of
    from updater.formats import Channel

    check_channel_name(channel)
    configs = load_config().each_arch()  # each architecture looks at a folder of its own
    data, version = build_site(), site_version()
    digest, name = hashlib.sha256(data).hexdigest(), f"{channel}{SITE}"
    wanted = []
    for config in configs:
        target = target_of(config, to)
        require_channel(target, channel, config.update.channel, new)
        before = current_channel(target, name, trusted_keys())
        if before:
            _check_version(before, version, digest)
        wanted.append((target, before))
    if c.config.run.dry:
        for _, before in wanted:
            say(f"{name}: {before.version if before else 'new'} -> {version}")
        return
    sign, pointers = signer(key), []
    for target, before in wanted:
        if f"blobs/{digest}" not in target.sizes():
            with tempfile.NamedTemporaryFile() as file:
                file.write(data)
                file.flush()
                target.put(Path(file.name), f"blobs/{digest}")
        pointer = Channel(configs[0].os.name, name, version, digest, 0, 0)
        pointer = move_channel(pointer, before, configs[0].publish.days, target, sign)
        pointers.append(asdict(pointer))
    if json:
        show_json(pointers if len(pointers) > 1 else pointers[0])
    else:
        many = " for each architecture" if len(configs) > 1 else ""
        say(f"channel {channel} has site {version}{many}")
        if not configs[0].update.site:
            say("note: nodes of this image take none: site in [update] of image.toml is false")


def _check_version(before: Channel, version: str, digest: str) -> None:
    """Raise UserError where nodes couldn't tell a site from the one that is published."""
    from updater.formats import version_key

    name, raised = before.channel, f"raise the version in {VERSION_FILE}"
    if version == before.version and digest != before.manifest:
        raise UserError(
            f"channel {name} has another site {version}: a version never changes", f"{raised}"
        )
    if version_key(version) < version_key(before.version):
        raise UserError(
            f"channel {name} has site {before.version}, which is newer than {version}",
            f"to bring an older site back, {raised} above that",
        )


@task(
    help={
        "node": "the node that may read it",
        "name": "what roles call it: tools.secret(NAME)",
        "file": "the file with the secret; default: standard input",
    }
)
def secret(c: Context, node: str, name: str, file: str = "") -> None:
    """Encrypt a secret for a node by its public age key: site/secrets/NODE/NAME.age."""
    from builder.releases.site import SITE_FOLDER, encrypted_for

    if not NAME_PATTERN.fullmatch(name):
        raise UserError(f'"{name}" is no name for a secret', "wanted small letters, digits, . _ -")
    try:
        data = Path(file).read_bytes() if file else sys.stdin.buffer.read()
    except OSError as error:
        raise UserError(f"--file {file}: {error.strerror}") from None
    if not data:
        raise UserError("the secret is empty: give it by --file, or on standard input")
    sealed = encrypted_for(node, data)
    target = SITE_FOLDER / "secrets" / node / f"{name}.age"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, sealed)
    say(f"{target}: only {node} can read it; commit it")


@task(
    help={
        "node": "only this node of the inventory",
        "json": "print the matrix as JSON",
    }
)
def test(c: Context, node: str = "", json: bool = False) -> None:
    """Try site/ on each node, in virtual machines with the newest release and with this tree.

    It is applied twice, and the second time must not change anything; then the site's own program
    `check` says whether the node works.
    """
    from builder.releases.make import store_of, trusted_keys
    from builder.releases.store import unpack_disk
    from builder.steps.plan import build as build_step
    from builder.vm.site_trial import nodes_of_site, report, try_site

    config, nodes = load_config(), nodes_of_site(node)
    build_step(c, "image", config)
    if c.config.run.dry:
        return
    store = store_of(config)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="site-") as scratch, Progress() as progress:
        folder = Path(scratch)
        disks = {"tree": BUILD / "disk.img"}
        if versions := store.versions():
            newest = folder / "release.img"
            unpack_disk(store, store.manifest(versions[-1], trusted_keys()), newest)
            disks = {versions[-1]: newest, **disks}
        matrix = try_site(ARCHES[config.alpine.arch], disks, nodes, folder, progress)
    if json:
        show_json(matrix)
    for line in report(matrix):
        say(line)
    if any(wrong for row in matrix.values() for wrong in row.values()):
        raise Exit(code=1)


namespace = Collection(build, publish, secret, test)
