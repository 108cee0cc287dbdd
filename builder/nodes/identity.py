"""A node's own files: its name, and the keys that are its alone."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.core.errors import UserError
from builder.core.files import folder_for, read_toml, remove_tree, write_atomically, write_private
from builder.core.paths import PROJECT
from updater.contract import NODE_SSH_HOLDERS, NODE_SSH_HOST_KEY

INVENTORY = PROJECT / "site" / "inventory.toml"
PRIVATE = PROJECT / "nodes"  # git ignores it: there are private keys in it
HOST_KEY = Path(NODE_SSH_HOST_KEY).name
AUTHORIZED_KEYS = Path(NODE_SSH_HOLDERS).name
AGE_KEY = "age.key"
NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_SSH_KEY = re.compile(r"(ssh|ecdsa|sk)-\S+ AAAA\S+")


@dataclass(frozen=True)
class Identity:
    """What everybody may know of a node: its public keys, as OpenSSH and age write them."""

    name: str
    host_key: str
    age: str


def new_identity(name: str, folder: Path, holders: str) -> Identity:
    """Make a node's files in the new `folder`; whoever has a key of `holders` may log in by SSH.

    Raises UserError where the name is none, or the folder holds a node already.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    x25519 = age().x25519
    check_name(name)
    if folder.exists():
        raise UserError(
            f"{folder} holds a node already",
            "to write its files to a stick, or to give it an SSH "
            f"key: ./inv node.write {name}; to make new keys for it: ./inv node.new {name} --again",
        )
    host_key, age_key = Ed25519PrivateKey.generate(), x25519.Identity.generate()
    files = {
        "name": f"{name}\n".encode(),
        HOST_KEY: dropbear_key(
            host_key.private_bytes_raw(), host_key.public_key().public_bytes_raw()
        ),
        AUTHORIZED_KEYS: holders.encode(),
        AGE_KEY: f"{age_key}\n".encode(),
    }
    if not holders:
        del files[AUTHORIZED_KEYS]
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with folder_for(folder) as scratch:
        scratch.chmod(0o700)
        for file, data in files.items():
            write_private(scratch / file, data)
    public = host_key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return Identity(name, public, str(age_key.to_public()))


def check_name(name: str) -> None:
    """Raise UserError where a node can't be called that."""
    if not NODE_NAME.fullmatch(name):
        raise UserError(
            f'"{name}" is no name for a node', "wanted up to 63 letters, digits, dashes"
        )


def age() -> Any:
    """The library for age keys. Raises UserError on musl, for which it has no wheel."""
    try:
        import pyrage
    except ImportError:
        raise UserError(
            "age keys need pyrage, which has no wheel for musl: do this on a system with glibc, "
            "or in a container with one"
        ) from None
    return pyrage


def set_aside(folder: Path) -> Path:
    """Give the files of a node another name, as new ones are to take their place; that name."""
    other = folder.with_name(f"{folder.name}.old")
    remove_tree(other)
    folder.rename(other)
    return other


def give_keys(folder: Path, holders: str) -> None:
    """Let whoever has a key of `holders` log in to a node, and nobody else."""
    write_atomically(folder / AUTHORIZED_KEYS, holders.encode(), 0o600)


def dropbear_key(seed: bytes, public: bytes) -> bytes:
    """A private ed25519 key as dropbear keeps it: 83 bytes.

    Format: buf_put_ed25519_priv_key in dropbear's src/ed25519.c.
    """
    kind = b"ssh-ed25519"
    return struct.pack(">I", len(kind)) + kind + struct.pack(">I", 64) + seed + public


def holders_of_keys(file: str) -> str:
    """The public SSH keys in `file`; without it, those of the user who asks. May be none."""
    if file:
        path = Path(file)
        if not path.is_file():
            raise UserError(f"--keys {file}: there is no such file")
        if not _SSH_KEY.search(text := path.read_text(errors="replace")):
            raise UserError(f"--keys {file}: there is no public SSH key in it")
        return text
    own = sorted((Path.home() / ".ssh").glob("id_*.pub")) if os.environ.get("HOME") else []
    return "".join(path.read_text() for path in own)


def check_inventory(name: str, again: bool = False, inventory: Path = INVENTORY) -> bool:
    """Whether a node is in the inventory. Raises UserError where its keys would be lost."""
    nodes = read_toml(inventory).get("nodes", {})
    if {"host_key", "age"} & nodes.get(name, {}).keys() and not again:
        raise UserError(
            f"{inventory}: node {name} has keys there already",
            f"to write its files, or to give it "
            f"an SSH key: ./inv node.write {name}; to make new keys: ./inv node.new {name} --again",
        )
    return name in nodes


def add_to_inventory(identity: Identity, again: bool = False, inventory: Path = INVENTORY) -> None:
    """Note a node's public keys, for the site. Raises UserError where it has some already."""
    known = check_inventory(identity.name, again, inventory)
    text = inventory.read_text() if inventory.exists() else "# The nodes, and what they are for.\n"
    keys = f'host_key = "{identity.host_key}"\nage = "{identity.age}"\n'
    head = f"[nodes.{identity.name}]\n"
    before, found, after = text.partition(head)
    if not known:
        text += f"\n{head}roles = []\n{keys}"
    elif found:
        entry, bracket, rest = after.partition("\n[")
        entry = re.sub(r"(?m)^(host_key|age) *=.*\n?", "", f"{entry}\n").removesuffix("\n")
        text = f"{before}{head}{keys}{entry}{bracket}{rest}"
    else:
        raise UserError(f"{inventory}: has no line {head.strip()}", f"add to the node:\n{keys}")
    inventory.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(inventory, text.encode())
