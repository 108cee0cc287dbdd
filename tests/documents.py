"""Runs the commands that documents show, out of the documents themselves."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pexpect

from builder.core.paths import PROJECT
from tests.project import cache_with_results_apart, copy_project

COMMAND_TIMEOUT_S = 1800
BOOT_TIMEOUT_S = 900
QUIT_QEMU = "\x01x"  # Ctrl-A X
ON_A_NODE = "sh on a node"


@dataclass(frozen=True)
class Block:
    """A block of a document: `kind` is what stands behind its fence."""

    kind: str
    text: str

    def commands(self) -> Iterator[str]:
        """The commands in it, each with its here-document, without comments."""
        lines = iter(self.text.splitlines())
        for line in lines:
            if not (command := re.sub(r"\s+#.*$", "", line).strip()) or command.startswith("#"):
                continue
            if here := re.search(r"<<'?(\w+)'?", command):
                for more in lines:
                    command += f"\n{more}"
                    if more.strip() == here[1]:
                        break
            yield command


def blocks(document: Path) -> list[Block]:
    """All fenced blocks, in order; in lists, too."""
    fenced = re.compile(r"^( *)```(.*?)\n(.*?)\n\1```$", re.MULTILINE | re.DOTALL)
    found = fenced.findall(document.read_text())
    return [Block(kind, re.sub(rf"(?m)^{indent}", "", text)) for indent, kind, text in found]


class Reader:
    """Does in a fresh clone what a document says. `stands_for` has words that differ here."""

    def __init__(self, folder: Path, stands_for: dict[str, str]) -> None:
        self.root = folder / "belay"
        self.stands_for = stands_for
        self.output = ""
        self._background: list[subprocess.Popen[bytes]] = []
        copy_project(self.root)
        (self.root / ".venv").symlink_to(PROJECT / ".venv")
        self.env = {
            **os.environ,
            "HOME": str(folder / "home"),
            "XDG_CONFIG_HOME": str(folder / "home/config"),
            "XDG_DATA_HOME": str(folder / "home/data"),
            "BELAY_CACHE": str(cache_with_results_apart(folder / "cache")),
            "BELAY_ALPINE_MIRROR": "sample",  # as on a machine without a network, whatever this is
            "BELAY_PASSPHRASE": "four words are enough",
            "BELAY_PUBLISH_LEVEL": "0",
            "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
        }
        for name in ("BELAY_OUTPUT", "BELAY_LOCK", "BELAY_KEYS", "BELAY_STORE"):
            self.env.pop(name, None)
        (folder / "home").mkdir()
        for words in (
            ("config", "--global", "user.name", "test"),
            ("config", "--global", "user.email", "test@example.org"),
            ("init", "-q"),
            ("add", "-A"),
            ("commit", "-qm", "A clone"),
        ):
            subprocess.run(["git", *words], cwd=self.root, env=self.env, check=True)
        with (self.root / ".git/info/exclude").open("a") as file:
            file.write("/.venv\n/id.pub\n/psk.txt\n")

    def close(self) -> None:
        """End what goes on in the background."""
        for process in self._background:
            process.terminate()
            process.wait(60)

    def here(self, command: str) -> str:
        """A command with the words of this machine."""
        for word, other in self.stands_for.items():
            command = command.replace(word, other)
        return command

    def run(self, command: str) -> None:
        """Run a command as a shell does; it must succeed."""
        command = self.here(command)
        if command.endswith("&"):
            words = ["sh", "-c", f"exec {command.removesuffix('&')}"]
            self._background.append(
                subprocess.Popen(words, cwd=self.root, env=self.env, stdin=subprocess.DEVNULL)
            )
            return
        done = subprocess.run(
            ["sh", "-euc", command], cwd=self.root, env=self.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            timeout=COMMAND_TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        self.output += done.stdout

    def start(self, command: str) -> pexpect.spawn[str]:
        """Start a command that goes on, with a terminal."""
        return pexpect.spawn(
            "sh", ["-euc", self.here(command)], cwd=str(self.root), env=self.env,
            encoding="utf-8", codec_errors="replace", timeout=BOOT_TIMEOUT_S,
        )  # fmt: skip

    def boot(self, command: str, on_node: str = "", pattern: str = "") -> None:
        """Boot a machine as far as its login, run a command there if one is given; end it.

        `pattern` is a pattern of what `inv` has to say before.
        """
        console = self.start(command)
        console.expect(pattern)
        console.expect("login: ")
        if on_node:
            console.sendline("root")
            console.expect("[#] ")
            console.sendline(f"{self.here(on_node)}; echo COD$((0))E $?")
            console.expect(r"COD0E (\d+)")
            assert isinstance(console.match, re.Match)
            assert console.match[1] == "0", f"{on_node}\n{console.before}"
        quit_qemu(console)


def quit_qemu(console: pexpect.spawn[str]) -> None:
    """End a machine of `inv qemu`, as the document says."""
    console.send(QUIT_QEMU)
    console.expect(pexpect.EOF)
    console.close()
    assert console.exitstatus == 0, console.before
