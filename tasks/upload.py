"""`inv upload`: publishes a release, and lets a channel point to it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from invoke.context import Context
from invoke.tasks import task

from builder.core.config import DAYS_MAX, Config, load_config
from builder.core.errors import UserError
from builder.core.options import whole_number
from builder.core.output import say, show_json
from builder.core.progress import Progress, human_size

if TYPE_CHECKING:
    from updater.formats import Manifest
    from updater.signature import PublicKey

UNVERIFIED = "if nodes can't fetch it, each of them will report errors"


@task(
    help={
        "channel": "the channel that names the release from now on",
        "version": "the release; the newest, if none is named",
        "to": "a folder, or host:folder over SSH (default: to in [publish])",
        "days": "how long the channel is valid (default: days in [publish])",
        "new": "make a channel that doesn't exist yet",
        "downgrade": "order nodes to install it even if they run a newer one",
        "unverified": f"don't check first that nodes can fetch it: {UNVERIFIED}",
        "key": "the private key that signs the channel, if you have several",
        "json": "print the channel as JSON",
    }
)
def upload(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    c: Context,
    channel: str,
    version: str = "",
    to: str = "",
    days: str = "",
    new: bool = False,
    downgrade: bool = False,
    unverified: bool = False,
    key: str = "",
    json: bool = False,
) -> None:
    """Publish a release: blobs first, then its manifest, and the channel last."""
    from builder.releases import publish
    from builder.releases.keys import signer
    from builder.releases.make import store_of, trusted_keys
    from builder.releases.targets import target_of
    from builder.vm.site_trial import require_tested
    from updater.contract import arch_folder
    from updater.formats import version_key
    from updater.source import open_source

    publish.check_channel_name(channel)
    configs = load_config().each_arch()
    valid_days = whole_number("days", days, 1, DAYS_MAX) if days else configs[0].publish.days
    keys = trusted_keys()
    wanted = _releases(configs, version, keys)
    ready = []
    for config, manifest in wanted:
        target = target_of(config, to)
        publish.require_channel(target, channel, config.update.channel, new)
        before = publish.current_channel(target, channel, keys)
        if before and version_key(before.version) > version_key(manifest.version) and not downgrade:
            raise UserError(
                f"channel {channel} has {before.version}, which is newer than {manifest.version}",
                "nodes go back only with --downgrade",
            )
        files = publish.missing(store_of(config), manifest, target)
        if c.config.run.dry:
            for file in files:
                say(f"{file.path} -> {target.name}/{file.name}")
            say(f"channel {channel}: {before.version if before else 'new'} -> {manifest.version}")
            continue
        if not unverified and not config.update.url:
            raise UserError(
                "url in [update] of image.toml is where nodes will fetch it, and it is not set",
                f"set it, or give --unverified: {UNVERIFIED}",
            )
        ready.append((config, manifest, target, before, files))
    for config, manifest, *_ in ready:  # all of them, before nodes get any
        if config.publish.tested:
            require_tested(config, store_of(config), manifest.version)
    published = []
    for config, manifest, target, before, files in ready:
        sign = signer(key)
        with Progress() as progress:
            size = publish.upload(files, target, progress)
            if not unverified:
                public = open_source(config.update.url, arch_folder(config.alpine.arch))
                publish.check_public(public, manifest, keys, progress)
            pointer = publish.new_channel(store_of(config), manifest, channel, downgrade)
            pointer = publish.move_channel(pointer, before, valid_days, target, sign)
        published.append(asdict(pointer))
        say(
            f"{human_size(size)} uploaded, with the disk image and the lists of the release; "
            f"a node fetches {human_size(manifest.slot.blob.size)} at most"
        )
        say(f"channel {channel} has release {manifest.version} for {manifest.arch}")
    if json and published:
        show_json(published if len(configs) > 1 else published[0])


def _releases(
    configs: list[Config], version: str, keys: list[PublicKey]
) -> list[tuple[Config, Manifest]]:
    """The release of that version, or the newest one, for each architecture. Raises UserError."""
    from builder.releases.make import store_of
    from updater.formats import version_key

    versions = {made for config in configs for made in store_of(config).versions()}
    if not versions and not version:
        raise UserError(
            f"{store_of(configs[0]).folder} has no release yet",
            "make one: ./inv release --tag v1.0.0",
        )
    version = version or max(versions, key=version_key)
    found = [(config, _release(config, version, keys)) for config in configs]
    if len({manifest.built for _, manifest in found}) > 1:
        raise UserError(
            f"release {version} is of one commit for {found[0][1].arch}, and of another for others",
            "take the next version: ./inv release --tag v1.0.1 makes it for all of one",
        )
    return found


def _release(config: Config, version: str, keys: list[PublicKey]) -> Manifest:
    """The release of that version for an architecture. Raises UserError."""
    from builder.releases.make import store_of

    store = store_of(config)
    manifest = store.manifest(version, keys)
    if manifest.arch != config.alpine.arch:
        raise UserError(
            f"release {manifest.version} in {store.folder} is for {manifest.arch}, and "
            f"{config.alpine.arch} is asked for",
            "arch in [alpine] of image.toml says for which machines releases are",
        )
    return manifest
