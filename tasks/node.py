"""`inv node.new` and `inv node.image`: what makes one machine differ from the others."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from tasks.build import build, plan_for
from tasks.core.config import load_config
from tasks.core.errors import UserError
from tasks.core.files import copy_sparse
from tasks.core.output import say, show_json
from tasks.core.paths import BUILD
from tasks.core.progress import Progress
from tasks.nodes.volume import check_device, volume, write_device


@task(
    help={
        "name": "what to call the node: its host name",
        "usb": "a folder (of a mounted stick, say) or a device for its files; default: nodes/NAME",
        "keys": "a file with the public SSH keys that may log in; default: your own",
        "json": "print the node's public keys as JSON",
    }
)
def new(c: Context, name: str, usb: str = "", keys: str = "", json: bool = False) -> None:
    """Make a node's own files, keys included, and note its public keys in site/inventory.toml."""
    from tasks.nodes.identity import (
        INVENTORY,
        PRIVATE,
        add_to_inventory,
        check_inventory,
        holders_of_keys,
        new_identity,
    )

    holders = holders_of_keys(keys)
    device = Path(usb) if usb and Path(usb).exists() and not Path(usb).is_dir() else None
    if device:  # before there are keys of a node that can't be written
        check_device(device)
    folder = Path(usb).resolve() if usb and not device else PRIVATE / name
    check_inventory(name)
    identity = new_identity(name, folder, holders)
    add_to_inventory(identity)
    if device:
        config = load_config()
        with Progress() as progress:
            plan = plan_for(config, ["chroot"], progress)
        write_device(device, volume(folder, config.node.label, plan.root, plan.engine))
    if json:
        show_json(asdict(identity))
    else:
        print(f"host key   {identity.host_key}\nage        {identity.age}")
    if not holders:
        say("nobody may log in by SSH: no public key was found; give --keys FILE")
    say(f"{device or folder}: the node's own files; whoever has them can pose as the node")
    say(f"{INVENTORY.name}: the node is in it; commit it")


@task(
    help={
        "name": "the node's name",
        "usb": "the folder with its files; default: nodes/NAME",
    }
)
def image(c: Context, name: str, usb: str = "") -> None:
    """Make build/NAME.img, a disk image with the node's files in it: no stick is needed."""
    from tasks.disk.table import read_table
    from tasks.nodes.identity import PRIVATE

    folder = Path(usb) if usb else PRIVATE / name
    if not (folder / "name").is_file():
        raise UserError(f"{folder}: there are no files of a node; inv node.new {name} makes them")
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


namespace = Collection(new, image)
