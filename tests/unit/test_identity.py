"""A node's own files, and its entry in the inventory."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyrage import x25519

from builder.core.errors import UserError
from builder.nodes.identity import Identity, add_to_inventory, holders_of_keys, new_identity
from builder.nodes.places import Device, open_place


def test_private_and_public_keys_belong_together(tmp_path: Path) -> None:
    folder = tmp_path / "crag-1"
    identity = new_identity("crag-1", folder, "ssh-ed25519 AAAAx me\n")
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    key = (folder / "dropbear_ed25519_host_key").read_bytes()
    assert len(key) == 83 and key[4:15] == b"ssh-ed25519"
    public = Ed25519PrivateKey.from_private_bytes(key[19:51]).public_key()
    assert public.public_bytes_raw() == key[51:]
    assert public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() == identity.host_key
    age = x25519.Identity.from_str((folder / "age.key").read_text().strip())
    assert str(age.to_public()) == identity.age
    with pytest.raises(UserError, match="holds a node already"):
        new_identity("crag-1", folder, "")


@pytest.mark.parametrize("name", ["", "no/name", "-x", "a" * 64, "two words"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no name for a node"):
        new_identity(name, tmp_path / "node", "")
    assert list(tmp_path.iterdir()) == []


TWO = "[nodes.crag-1]\nroles = ['web']\n\n[nodes.other]\nage = 'x'\n"


@pytest.mark.parametrize(
    "before", ["", "[nodes.crag-1]\nroles = ['web']\n", "[nodes.other]\n", TWO]
)
def test_a_node_is_in_the_inventory_once(tmp_path: Path, before: str) -> None:
    inventory = tmp_path / "inventory.toml"
    inventory.write_text(before)
    identity = new_identity("crag-1", tmp_path / "node", "")
    add_to_inventory(identity, inventory=inventory)
    entry = tomli.loads(inventory.read_text())["nodes"]["crag-1"]
    assert (entry["host_key"], entry["age"]) == (identity.host_key, identity.age)
    assert entry["roles"] == (["web"] if "web" in before else [])
    with pytest.raises(UserError, match="has keys there already"):
        add_to_inventory(identity, inventory=inventory)
    again = Identity("crag-1", "ssh-ed25519 NEW", "age1new")
    add_to_inventory(again, again=True, inventory=inventory)
    nodes = tomli.loads(inventory.read_text())["nodes"]
    assert nodes["crag-1"] == {**entry, "host_key": again.host_key, "age": again.age}
    assert ("other" in nodes) is ("other" in before)


def test_a_file_without_public_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    with pytest.raises(UserError, match="there is no public SSH key in it"):
        holders_of_keys(str(tmp_path / "key"))
    with pytest.raises(UserError, match="there is no such file"):
        holders_of_keys(str(tmp_path / "nothing"))


@pytest.mark.parametrize("place", ["/dev/no-such-disk", "/no/such/folder", "./missing", "x.img"])
def test_a_place_that_is_not_there_is_refused_and_not_made(place: str) -> None:
    with pytest.raises(UserError, match="there is no such folder or device; plug the stick in"):
        open_place(place)
    assert not Path(place).exists()


def test_a_new_node_is_at_no_host_yet() -> None:
    with pytest.raises(UserError, match="stick: there is no such folder or device"):
        open_place("stick", hosts=False)


def test_a_folder_in_dev_is_no_stick() -> None:
    with pytest.raises(UserError, match="is a folder in /dev"):
        open_place("/dev/shm")


def test_a_mounted_stick_keeps_what_else_is_on_it(tmp_path: Path) -> None:
    stick, files = tmp_path / "stick", tmp_path / "files"
    for folder in (stick, files):
        folder.mkdir()
    (stick / "photo").write_text("of the crag")
    (files / "name").write_text("crag-1\n")
    open_place(str(stick)).write(files, bytes)
    assert {path.name for path in stick.iterdir()} == {"photo", "name"}
    assert (stick / "name").stat().st_mode & 0o777 == 0o600


def test_only_a_stick_becomes_a_volume(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for other in (tmp_path / "file", Path("/dev/null")):
        with pytest.raises(UserError, match="is no disk"):
            Device(other)
    disks = [path for path in Path("/dev").iterdir() if path.is_block_device()]
    removable = {
        p.parent.name
        for p in Path("/sys/class/block").glob("*/removable")
        if p.read_text().strip() == "1"
    }
    for disk in disks:
        if disk.name not in removable:
            with pytest.raises(UserError, match=r"is mounted|no whole removable disk"):
                Device(disk)
