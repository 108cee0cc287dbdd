"""Release keys: minisign key pairs. The public halves go into the image, the private ones nowhere.

Public keys lie in `rootfs/overlay/etc/belay/keys/NAME.pub`: what is there, nodes trust. Private
keys lie outside of the project, in `$BELAY_KEYS`, else in `~/.config/belay/keys`.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from minisign import Error, KeyPair, SecretKey

from builder.core.errors import UserError
from builder.core.files import write_atomically, write_private
from builder.core.paths import PROJECT, private_keys
from updater.formats import NAME_PATTERN

PUBLIC_KEYS = PROJECT / "rootfs" / "overlay" / "etc" / "belay" / "keys"
REVOKED = PUBLIC_KEYS.parent / "revoked"
Sign = Callable[[bytes, str], bytes]


def new_key(name: str, public: Path = PUBLIC_KEYS) -> tuple[Path, Path]:
    """Make a key pair; its private and its public file. Never overwrites one."""
    if not NAME_PATTERN.fullmatch(name):
        raise UserError(f'"{name}" is no name for a key', "wanted small letters, digits, . _ -")
    secret_file, public_file = private_keys() / f"{name}.key", public / f"{name}.pub"
    for path in (secret_file, public_file):
        if path.exists():
            raise UserError(f"{path} exists already", "choose another name")
    pair = KeyPair.generate()
    pair.secret_key.untrusted_comment = f"belay release key {name}"
    pair.public_key.untrusted_comment = f"belay release key {name}"
    passphrase = _passphrase(f"passphrase for the new key {name}: ", confirm=True)
    if not passphrase:
        raise UserError(
            "the passphrase is empty: whoever copied the key could decide what your nodes run"
        )
    pair.secret_key.encrypt(passphrase)
    write_private(secret_file, bytes(pair.secret_key))
    write_atomically(public_file, bytes(pair.public_key))
    return secret_file, public_file


def revoke(name: str) -> str:
    """Take a key out of the image and note that nodes refuse it from then on; returns its id."""
    from updater.signature import PublicKey

    path = PUBLIC_KEYS / f"{name}.pub"
    if not path.exists():
        raise UserError(f"there is no {path}", f"there are: {', '.join(public_names()) or 'none'}")
    key = PublicKey.parse(path.read_bytes(), str(path))
    before = REVOKED.read_text().split() if REVOKED.exists() else []
    write_atomically(REVOKED, "".join(f"{line}\n" for line in sorted({*before, key.id})).encode())
    path.unlink()
    return key.id


def public_names() -> list[str]:
    """The names of the keys that the image carries."""
    return sorted(path.stem for path in PUBLIC_KEYS.glob("*.pub"))


def signer(name: str = "") -> Sign:
    """A function that signs bytes, given them and a comment; unlocks the key once.

    Without a name it is the only private key whose public half the image carries.
    """
    key = unlocked(_key_file(name))
    return lambda data, comment: signed(key, data, comment)


def signed(key: SecretKey, data: bytes, comment: str) -> bytes:
    """The signature file of `data`."""
    signature = key.sign(data, trusted_comment=comment, untrusted_comment="signed by belay")
    return bytes(signature).rstrip(b"\n") + b"\n"


def _key_file(name: str) -> Path:
    folder = private_keys()
    trusted = public_names()
    if name and name not in trusted:
        raise UserError(
            f"--key {name}: this tree trusts no such key, and nodes would refuse what it signs",
            f"it trusts: {', '.join(trusted) or 'none'}",
        )
    names = [name] if name else trusted
    files = [path for path in (folder / f"{name}.key" for name in names) if path.exists()]
    if not files:
        wanted = ", ".join(names) or "none; make one: ./inv key.new"
        raise UserError(f"{folder} has no private key of this image, which trusts: {wanted}")
    if len(files) > 1:
        raise UserError(f"{folder} has several keys", f"choose one: --key {files[0].stem}")
    return files[0]


def unlocked(path: Path) -> SecretKey:
    """The private key of a file. Raises UserError where the passphrase is wrong."""
    try:
        key = SecretKey.from_file(path)
    except Error as error:
        raise UserError(f"{path}: {error}") from None
    if key.is_encrypted():
        try:
            key.decrypt(_passphrase(f"passphrase for {path}: "))
        except Error:
            raise UserError(f"{path}: the passphrase is wrong") from None
    return key


def _passphrase(prompt: str, confirm: bool = False) -> str:
    """From $BELAY_PASSPHRASE, from the command $BELAY_PASSPHRASE_COMMAND, or from a person."""
    if (given := os.environ.get("BELAY_PASSPHRASE")) is not None:
        return given
    if command := os.environ.get("BELAY_PASSPHRASE_COMMAND"):
        done = subprocess.run(
            command, shell=True, capture_output=True, text=True, check=False, timeout=120
        )
        if done.returncode:
            why = f"exit code {done.returncode}: {done.stderr.strip() or 'it said nothing'}"
            raise UserError(f"BELAY_PASSPHRASE_COMMAND failed with {why}")
        if not done.stdout.strip("\n"):
            raise UserError("BELAY_PASSPHRASE_COMMAND printed no passphrase")
        return done.stdout.rstrip("\n")
    if not sys.stdin.isatty():
        raise UserError(
            "a passphrase is needed, and nobody is there to type it",
            "set BELAY_PASSPHRASE or BELAY_PASSPHRASE_COMMAND",
        )
    passphrase = getpass.getpass(prompt)
    if confirm and getpass.getpass("once more: ") != passphrase:
        raise UserError("the two are not the same")
    return passphrase
