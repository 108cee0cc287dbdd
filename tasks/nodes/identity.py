"""A node's own files: its name, and the keys that are its alone."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from tasks.core.errors import UserError
from tasks.core.files import folder_for, write_atomically
from tasks.core.paths import PROJECT

INVENTORY = PROJECT / "site" / "inventory.toml"
PRIVATE = PROJECT / "nodes"  # git ignores it: there are private keys in it
HOST_KEY = "dropbear_ed25519_host_key"
AUTHORIZED_KEYS = "authorized_keys"
AGE_KEY = "age.key"
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_SSH_KEY = re.compile(r"(ssh|ecdsa|sk)-\S+ AAAA\S+")


@dataclass(frozen=True)
class Identity:
    """What everybody may know of a node: its public keys, as OpenSSH and age write them."""

    name: str
    host_key: str
    age: str


def new_identity(name: str, folder: Path, holders: str) -> Identity:
    """Make a node's files in `folder`; whoever has a key of `holders` may log in by SSH.

    Raises UserError where the name is none, or the folder holds a node already.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from pyrage import x25519

    if not NAME.fullmatch(name):
        raise UserError(f'"{name}" is no name for a node; wanted letters, digits, dashes')
    if (folder / "name").exists():
        raise UserError(f"{folder} holds a node already; delete it if its keys are to be lost")
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
    if folder.exists():  # a stick that is mounted: it stays what it is
        for file, data in files.items():
            write_atomically(folder / file, data)
    else:
        with folder_for(folder) as scratch:
            scratch.chmod(0o700)
            for file, data in files.items():
                (scratch / file).write_bytes(data)
                (scratch / file).chmod(0o600)
    public = host_key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return Identity(name, public, str(age_key.to_public()))


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


def check_inventory(name: str, inventory: Path = INVENTORY) -> bool:
    """Whether a node is in the inventory; raise UserError where it has keys there already."""
    import tomli

    try:
        nodes = tomli.loads(inventory.read_text() if inventory.exists() else "").get("nodes", {})
    except tomli.TOMLDecodeError as error:
        raise UserError(f"{inventory}: is not valid TOML: {error}") from None
    if {"host_key", "age"} & nodes.get(name, {}).keys():
        raise UserError(f"{inventory}: node {name} has keys there already; remove them if they go")
    return name in nodes


def add_to_inventory(identity: Identity, inventory: Path = INVENTORY) -> None:
    """Note a node's public keys, for the site. Raises UserError where it has some already."""
    known = check_inventory(identity.name, inventory)
    text = inventory.read_text() if inventory.exists() else "# The nodes, and what they are for.\n"
    keys = f'host_key = "{identity.host_key}"\nage = "{identity.age}"\n'
    head = f"[nodes.{identity.name}]\n"
    if not known:
        text += f"\n{head}roles = []\n{keys}"
    elif head in text:
        text = text.replace(head, head + keys)
    else:
        raise UserError(f"{inventory}: has no line {head.strip()}; add to the node:\n{keys}")
    inventory.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(inventory, text.encode())
