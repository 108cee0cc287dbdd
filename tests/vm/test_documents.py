"""What README and the pages for users tell to type works, word for word."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
import tomli

from builder.core.config import load_config
from builder.core.paths import PROJECT
from builder.vm.hardware import free_port
from tests.documents import ON_A_NODE, Block, Reader, blocks, quit_qemu

pytestmark = pytest.mark.vm(minutes=6)

UPDATE_TIMEOUT_S = 1800
NODES = PROJECT / "docs/nodes.md"


@pytest.fixture
def reader(tmp_path: Path, artefacts: Path) -> Iterator[Reader]:
    stands_for = {"8000": str(free_port()), "8080": str(free_port())}
    stands_for |= {"/dev/sdX": str(tmp_path / "sdX"), "/media/stick": str(tmp_path / "stick")}
    reader = Reader(tmp_path, stands_for)
    yield reader
    reader.close()


def test_the_readme(reader: Reader) -> None:
    quickstart, disk, first, second, once = (
        list(block.commands()) for block in blocks(PROJECT / "README.md") if block.kind == "sh"
    )
    assert quickstart[0] == "./inv image" and quickstart[1].startswith("./inv qemu")
    reader.run(quickstart[0])
    reader.boot(quickstart[1])
    for command in disk:
        reader.run(command)
    for command in first[:-1]:
        reader.run(command)
    assert first[-1].startswith("./inv qemu --release 1.0.0")
    node = reader.start(first[-1])
    node.expect("login: ")
    for command in second:
        reader.run(command)
    assert "release 1.1.0, tried on 1.0.0: passed" in reader.output
    node.expect(r"belay: booting slot b \(trial\)", timeout=UPDATE_TIMEOUT_S)
    node.expect("slot b is good: belay 1.1.0", timeout=UPDATE_TIMEOUT_S)
    node.sendline("root")
    node.expect("Welcome to 1.1.0")
    node.sendline("belay history")
    node.expect("confirmed +1.1.0 in slot b")
    quit_qemu(node)
    for command in once:
        reader.run(command)


def test_the_page_on_nodes(reader: Reader, tmp_path: Path) -> None:
    reader.env |= {"BELAY_PUBLISH_TO": str(tmp_path / "www"), "BELAY_UPDATE_SITE": "true"}
    for command in (
        "./inv key.new && ./inv lock && git add -A && git commit -qm First && git tag v1.0.0",
        "./inv release --tag v1.0.0",
    ):
        reader.run(command)
    shutil.copy((reader.root / "build/disk.img").resolve(), tmp_path / "sdX")
    (reader.root / "id.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 somebody\n")
    (reader.root / "psk.txt").write_text("secret\n")
    for block in blocks(NODES):
        if block.kind == "sh":
            for command in block.commands():
                do(reader, command)
    # The cache belongs to others, too; and of releases there is one.
    reader.stands_for |= {
        "--keep 4096": "--keep 999999",
        "release.test 1.1.0": "release.test 1.0.0",
    }
    for name in ("updates.md", "settings.md", "troubleshooting.md"):
        for block in blocks(PROJECT / "docs" / name):
            for command in block.commands() if block.kind == "sh" else ():
                reader.run(command)
    assert "crag-1               1.0.0        passed" in reader.output
    assert (tmp_path / "www/channels/stable.site").exists()


def do(reader: Reader, command: str) -> None:
    """Do what a line of the page says; what is to be run on a node, on one that it boots."""
    on_node = {
        "belay " + word: next(c for b in of_nodes() for c in b.commands() if word in c)
        for word in ("install", "boottime")
    }
    if "netboot --url" in command and "--tag" in command:
        reader.run("git stash -q -u")  # a release is of a tree without changes
    if "--serve" in command:
        server = reader.start(command)
        server.expect("serving it at port")
        server.sendintr()
        server.expect(pexpect.EOF)
    elif "qemu --netboot" in command:
        reader.boot(command, on_node["belay install"].replace("sda", "vda"))
    elif "qemu" in command:
        reader.boot(command, on_node["belay boottime"], "ssh -p [0-9]+ root@127.0.0.1")
    else:
        reader.run(command)


def of_nodes() -> list[Block]:
    return [block for block in blocks(NODES) if block.kind == ON_A_NODE]


def test_settings_that_documents_show_are_valid(tmp_path: Path) -> None:
    shown = [
        block.text
        for document in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md"))
        for block in blocks(document)
        if block.kind == "toml"
    ]
    assert shown
    for text in shown:
        (tmp_path / "image.toml").write_text(text)
        load_config(tmp_path / "image.toml", {})
        assert tomli.loads(text)
