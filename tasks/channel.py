"""`inv channel.show` and `inv channel.promote`: what channels point to."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from builder.core.config import DAYS_MAX, load_config
from builder.core.errors import UserError
from builder.core.files import DAY_S
from builder.core.options import whole_number
from builder.core.output import say, show_json
from builder.core.progress import table
from builder.releases.targets import target_of
from updater.formats import version_key

if TYPE_CHECKING:
    from updater.formats import Channel

VALID = "valid"
TO = "a folder, or host:folder over SSH (default: to in [publish])"


@task(help={"to": TO, "json": "print the channels as JSON"})
def show(c: Context, to: str = "", json: bool = False) -> None:
    """Show the published channels, and the release that each one names.

    Exit code 1 if nodes would no longer believe one of them.
    """
    from builder.releases.make import trusted_keys
    from builder.releases.publish import channel_names, current_channel
    from builder.releases.targets import Folder

    keys = trusted_keys()
    found: list[dict[str, Any]] = []
    for config in load_config().each_arch():
        target, arch = target_of(config, to), config.alpine.arch
        if isinstance(target, Folder) and not target.folder.is_dir():
            raise UserError(f"{target.name}: there is no such folder")
        for name in channel_names(target):
            try:
                if channel := current_channel(target, name, keys):
                    found.append({**asdict(channel), "arch": arch, "state": _state(channel)})
            except UserError as error:  # the others are to be seen all the same
                found.append({"channel": name, "arch": arch, "state": str(error)})
    if json:
        show_json(found)
    else:
        rows = [
            (
                row["channel"],
                row["arch"],
                row.get("version", ""),
                _day(row.get("signed")),
                _day(row.get("expires")),
                row["state"],
            )
            for row in found
        ]
        table(("channel", "arch", "release", "signed", "expires", ""), rows)
    if any(row["state"] != VALID for row in found):
        raise Exit(code=1)


@task(
    positional=["source", "target"],
    help={
        "source": "the channel that has the release, such as beta",
        "target": "the channel that gets it too, such as stable",
        "to": TO,
        "days": "how long the channel is valid (default: days in [publish])",
        "new": "make the second channel if it doesn't exist yet",
        "key": "the private key that signs the channel, if you have several",
    },
)
def promote(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    c: Context,
    source: str,
    target: str,
    to: str = "",
    days: str = "",
    new: bool = False,
    key: str = "",
) -> None:
    """Make a channel name the release that another channel names."""
    from builder.releases.keys import signer
    from builder.releases.make import trusted_keys
    from builder.releases.publish import (
        check_channel_name,
        current_channel,
        move_channel,
        require_channel,
    )

    check_channel_name(source)
    configs, keys = load_config().each_arch(), trusted_keys()
    valid_days = whole_number("days", days, 1, DAYS_MAX) if days else configs[0].publish.days
    moves = []
    for config in configs:
        server = target_of(config, to)
        channel = current_channel(server, source, keys)
        if channel is None:
            raise UserError(f"{server.name} has no channel {source}")
        require_channel(server, target, config.update.channel, new)
        before = current_channel(server, target, keys)
        which = f" for {config.alpine.arch}" if len(configs) > 1 else ""
        moves.append((server, replace(channel, channel=target), before, which))
        if not before or version_key(before.version) <= version_key(channel.version):
            continue
        raise UserError(
            f"channel {target} has {before.version}, which is newer than {channel.version}",
            "nodes "
            f"go back only by an order: ./inv upload --channel {target} --version "
            f"{channel.version} --downgrade",
        )
    sign = signer(key)
    for server, channel, before, which in moves:
        move_channel(channel, before, valid_days, server, sign)
        say(f"channel {target} has release {channel.version}{which}")


def _day(seconds: int | None) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds)) if seconds is not None else ""


def _state(channel: Channel) -> str:
    days_over = (time.time() - channel.expires) / DAY_S
    if days_over < 0:
        return VALID
    return f"expired {days_over:.0f} days ago: publish it again, nodes believe it no longer"


namespace = Collection(show, promote)
