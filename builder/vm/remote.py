"""Commands on a virtual machine by SSH: its console may be locked, or have no login at all.

The machine gets the files of a node with a key of ours on a stick.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from builder.core.host import require_program
from builder.nodes.identity import AGE_KEY, AUTHORIZED_KEYS, HOST_KEY, new_identity
from builder.vm.machine import Machine, MachineError
from updater.contract import (
    RUN_CONFIRMED,
)

CONNECT_WITHIN_S = 30
COMMAND_TIMEOUT_S = 240
UNREACHED = 255  # ssh's own exit code


class Stick:
    """In `folder`: the files for a machine called `name`, and the key that opens it.

    `own` is a folder with files of that node, which are taken over.
    """

    def __init__(self, folder: Path, name: str, own: Path | None = None) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
            PublicFormat,
        )

        key = Ed25519PrivateKey.generate()
        folder.mkdir(parents=True)
        self.key = folder / "key"
        self.key.touch(mode=0o600)
        self.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        self.files = folder / "files"
        new_identity(name, self.files, "")
        if own:
            for path in own.iterdir():
                shutil.copyfile(path, self.files / path.name)
        else:
            (self.files / AGE_KEY).unlink()
        holders = self.files / AUTHORIZED_KEYS
        text = holders.read_text() if holders.exists() else ""
        holders.write_text(f"{text.rstrip()}\n{public}\n".lstrip())
        assert (self.files / HOST_KEY).exists()


class Remote:
    """A machine whose stick is plugged in."""

    def __init__(self, machine: Machine, stick: Stick) -> None:
        self.machine = machine
        self._program = require_program("ssh")
        self._key = stick.key

    def run(
        self, command: str, timeout_s: float = COMMAND_TIMEOUT_S, data: bytes = b""
    ) -> tuple[int, str]:
        """Run a shell command with `data` as its input; exit code and output, both streams.

        The code is UNREACHED where the machine can't be reached.
        """
        options = {
            "Port": self.machine.ssh_port(),
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "no",  # it is on this very machine
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "BatchMode": "yes",
            "ConnectTimeout": CONNECT_WITHIN_S,
        }
        words = ["-i", str(self._key)]  # as an option by name, a space would end it
        words += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        try:
            done = subprocess.run(
                [self._program, "-F", "none", *words, "root@127.0.0.1", command],
                input=data, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                timeout=timeout_s,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return UNREACHED, f"no answer within {timeout_s:.0f} s"
        return done.returncode, done.stdout.decode(errors="replace")

    def succeed(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S, data: bytes = b"") -> str:
        """Run a command that must succeed; its output."""
        code, output = self.run(command, timeout_s, data)
        if code:
            raise MachineError(f"{command!r} failed with exit code {code}:\n{output}")
        return output

    def wait_until(self, happened: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait until something is so on the machine, which may reboot meanwhile.

        Raises MachineError, with `what` was waited for.
        """
        self.machine.watch(happened, what, timeout_s)

    def wait_until_confirmed(self, timeout_s: float) -> None:
        """Wait until the machine is up and its health checks are over."""
        self.wait_until(
            lambda: not self.run(f"test -e /{RUN_CONFIRMED}")[0],
            "its health checks are over, and SSH answers",
            timeout_s,
        )
