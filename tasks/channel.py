"""`inv channel.show` and `inv channel.promote`: what channels point to."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from tasks.core.config import load_config
from tasks.core.errors import UserError
from tasks.core.output import say, show_json
from tasks.core.progress import table
from tasks.upload import target_of

TO = "a folder, or host:folder over SSH (default: to in [publish])"


@task(help={"to": TO, "json": "print the channels as JSON"})
def show(c: Context, to: str = "", json: bool = False) -> None:
    """Show the channels that are published, and to which release each points."""
    from tasks.releases.make import trusted_keys
    from tasks.releases.publish import current_channel

    target = target_of(load_config(), to)
    names = [n.removeprefix("channels/") for n in target.sizes() if n.startswith("channels/")]
    channels = [current_channel(target, name, trusted_keys()) for name in sorted(names)]
    if json:
        show_json([asdict(channel) for channel in channels if channel])
        return
    rows = [
        (channel.channel, channel.version, _day(channel.signed), _day(channel.expires))
        for channel in channels
        if channel
    ]
    table(("channel", "release", "signed", "expires"), rows)


@task(
    positional=["source", "target"],
    help={
        "source": "the channel that has the release, such as beta",
        "target": "the channel that is to have it too, such as stable",
        "to": TO,
        "days": "for how long nodes may believe the channel (default: days in [publish])",
        "key": "which private key signs the channel, if there are several",
    },
)
def promote(
    c: Context, source: str, target: str, to: str = "", days: int = 0, key: str = ""
) -> None:
    """Let a channel point to the release that another one has."""
    from tasks.releases.keys import signer
    from tasks.releases.make import trusted_keys
    from tasks.releases.publish import current_channel, move_channel

    config, keys = load_config(), trusted_keys()
    place = target_of(config, to)
    channel = current_channel(place, source, keys)
    if channel is None:
        raise UserError(f"{place.name} has no channel {source}")
    before = current_channel(place, target, keys)
    new = replace(channel, channel=target)
    move_channel(new, before, days or config.publish.days, place, signer(key))
    say(f"channel {target} has release {new.version}")


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


namespace = Collection(show, promote)
