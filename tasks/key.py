"""`inv key.new` and `inv key.revoke`: the keys that sign releases."""

from __future__ import annotations

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from builder.core.output import say


@task(help={"name": "its name; the year is a good one"})
def new(c: Context, name: str = "release") -> None:
    """Make a minisign key pair: nodes trust it from the next image on."""
    from builder.releases.keys import new_key

    secret, public = new_key(name)
    say(
        f"{public}: commit it; images built from now on trust this key\n"
        f"{secret}: keep a copy of it in a safe place; whoever has it and its passphrase "
        "decides what your nodes run"
    )


@task(help={"name": "the name of the key"})
def revoke(c: Context, name: str) -> None:
    """Make the next image refuse a key, and everything it signed, for ever."""
    from builder.releases.keys import public_names
    from builder.releases.keys import revoke as revoke_key

    key_id = revoke_key(name)
    others = ", ".join(public_names()) or "none: make one, or nodes take no update any more"
    say(f"key {key_id} is revoked by the next image; that one trusts: {others}")


@task
def packages(c: Context) -> None:
    """Make the key that signs the index of the offline packages (available in image.toml)."""
    from builder.alpine.offline import new_key

    secret, public = new_key()
    say(
        f"{public}: commit it; apk on your nodes trusts this key\n"
        f"{secret}: keep a copy of it; without it no other machine can build this image"
    )


namespace = Collection(new, packages, revoke)
