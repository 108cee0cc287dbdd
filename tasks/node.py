"""`inv node.new`, `node.write` and `node.image`: what makes one machine differ from the others."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from builder.core.config import load_config
from builder.core.errors import UserError
from builder.core.files import copy_sparse, remove_tree
from builder.core.output import say, show_json
from builder.core.paths import BUILD
from builder.core.progress import Progress
from builder.nodes.places import PLACE_HELP, STICKS, Place, open_place
from builder.nodes.volume import volume
from builder.steps.plan import build, plan_for


@task(
    help={
        "name": "the node's name, which is its host name",
        "usb": f"write its files there too: {STICKS}",
        "keys": "a file with the public SSH keys that may log in; default: your own",
        "again": "make new keys for a node that exists already; its old keys open nothing any more",
        "json": "print the node's public keys as JSON",
    }
)
def new(
    c: Context, name: str, usb: str = "", keys: str = "", again: bool = False, json: bool = False
) -> None:
    """Make a node's own files in nodes/NAME, and add its public keys to site/inventory.toml."""
    from builder.nodes.identity import (
        INVENTORY,
        PRIVATE,
        add_to_inventory,
        check_inventory,
        check_name,
        holders_of_keys,
        new_identity,
        set_aside,
    )

    check_name(name)
    holders = holders_of_keys(keys)
    target = (
        open_place(usb, hosts=False) if usb else None
    )  # before there are keys that nothing can take
    folder = PRIVATE / name
    check_inventory(name, again)
    if again and folder.exists():
        say(f"{set_aside(folder)}: the files as they were")
    identity = new_identity(name, folder, holders)
    try:
        add_to_inventory(identity, again)
    except UserError:
        remove_tree(folder)  # nobody knows these keys
        raise
    if target:
        _bring(folder, target)
    if json:
        show_json(asdict(identity))
    else:
        print(f"host key   {identity.host_key}\nage        {identity.age}")
    if not holders:
        say(
            "nobody may log in by SSH: no public key was found; to give it one: "
            f"./inv node.write {name} --keys FILE"
        )
    say(f"{folder}: the node's own files; whoever has them can pose as the node")
    say(f"{INVENTORY.name}: the node is in it; commit it")


@task(
    help={
        "name": "the node's name",
        "to": PLACE_HELP,
        "keys": "a file with the public SSH keys that may log in from now on",
    }
)
def write(c: Context, name: str, to: str = "", keys: str = "") -> None:
    """Write the files in nodes/NAME to a stick, a disk, or a running node."""
    from builder.nodes.identity import give_keys, holders_of_keys

    folder = _folder_of(name)
    if not to and not keys:
        raise UserError("where to? Give --to PLACE", "or --keys FILE, to change who may log in")
    target = open_place(to) if to else None
    if keys:
        give_keys(folder, holders_of_keys(keys))
        say(f"{folder}: who may log in is changed")
    if target:
        _bring(folder, target)
    else:
        say(f"to bring it to the node: ./inv node.write {name} --to PLACE")


def _bring(folder: Path, target: Place) -> None:
    def made() -> bytes:
        config = load_config()
        with Progress() as progress:
            plan = plan_for(config, ["chroot"], progress)
        return volume(folder, config.node.label, plan.root, plan.engine)

    target.write(folder, made)
    say(f"{target.name}: has the node's files; it reads them when it boots")


def _folder_of(name: str, given: str = "") -> Path:
    """The folder with a node's files. Raises UserError where there are none."""
    from builder.nodes.identity import PRIVATE

    folder = Path(given) if given else PRIVATE / name
    if not (folder / "name").is_file():
        raise UserError(
            f"{folder}: there are no files of a node", f"inv node.new {name} makes them"
        )
    return folder


@task(
    help={
        "name": "the node's name",
        "usb": "the folder with its files; default: nodes/NAME",
    }
)
def image(c: Context, name: str, usb: str = "") -> None:
    """Make build/NAME.img, a disk image that has the node's files, so that it needs no stick."""
    from builder.disk.table import read_table

    folder = _folder_of(name, usb)
    config = load_config()
    build(c, "image", config)
    if c.config.run.dry:
        return
    with Progress() as progress:
        plan = plan_for(config, ["image"], progress)
    data = volume(folder, config.node.label, plan.root, plan.engine)
    target, partial = BUILD / f"{name}.img", BUILD / f".partial-{name}.img"
    # From the first byte on for its owner only: there are private keys in it.
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT, 0o600))
    try:
        copy_sparse(BUILD / "disk.img", partial)
        with partial.open("r+b") as disk:
            disk.seek(read_table(disk)["node"].offset)
            disk.write(data)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    say(f"{target}: for {name} alone; it holds the node's private keys")


namespace = Collection(new, image, write)
