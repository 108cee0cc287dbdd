"""A virtual machine driven by its serial console and by QMP.

    with Machine(image, folder) as machine:
        machine.wait_for_login()
        assert "belay.slot=a" in machine.succeed("cat /proc/cmdline")

It has its own copy of the disk and of the firmware's variables. `folder` keeps the console's log,
which every failure names. Nothing waits for a fixed time: there are events, and deadlines that
only a broken system meets.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pexpect
from qemu.qmp import ExecuteError, QMPClient

from builder.core.arch import X86_64, Arch
from builder.core.files import copy_sparse
from builder.vm.hardware import Hardware, copy_variables, usb_stick
from updater.contract import (
    RUN_CONFIRMED,
)

BOOT_TIMEOUT_S = 600
COMMAND_TIMEOUT_S = 240
# The emulated serial line loses what comes faster.
CHUNK, CHUNK_PAUSE_S = 16, 0.01
REBOOTED = 1  # which of the things that are waited for came


class MachineError(AssertionError):
    """The machine did not do what the test wants; names the log."""


class Machine:
    """A machine with a copy of the disk `image`, off until `start`, as a context on from the start.

    What is given by name goes to `Hardware`.
    """

    def __init__(
        self,
        image: Path,
        folder: Path,
        *,
        bios: bool = False,
        arch: Arch = X86_64,
        **hardware: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.disk = folder / "disk.img"
        self.log = folder / "console.log"
        # The path of a socket may have 107 characters only, and `folder` may be deep.
        self._scratch = tempfile.TemporaryDirectory(prefix="belay-")
        self._socket = Path(self._scratch.name) / "qmp"
        copy_sparse(image, self.disk)
        keeps_none = bios or hardware.get("firmware")
        variables = None if keeps_none else copy_variables(folder, arch)
        self.hardware = Hardware(self.disk, variables, arch=arch, **hardware)
        self._process: pexpect.spawn[bytes] | None = None
        self._loop = asyncio.new_event_loop()
        self._commands = 0

    def __enter__(self) -> Machine:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.power_cut()
        self._loop.close()
        self._scratch.cleanup()
        self.disk.unlink()

    @property
    def console(self) -> pexpect.spawn[bytes]:
        """The serial console of the running machine."""
        assert self._process is not None, "the machine is off"
        return self._process

    def start(self) -> None:
        """Switch it on."""
        assert self._process is None, "the machine is on already"
        self._socket.unlink(missing_ok=True)
        words = self.hardware.command()
        # A reset under emulation can hang in the firmware: each boot gets a qemu of its own.
        words += ["-action", "reboot=shutdown"]
        words += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
        words += ["-qmp", f"unix:{str(self._socket).replace(',', ',,')},server=on,wait=off"]
        self._process = pexpect.spawn(words[0], words[1:], echo=False, timeout=BOOT_TIMEOUT_S)
        self._log_file = self.log.open("ab")
        self._process.logfile_read = self._log_file
        self._client = QMPClient("machine")

    def power_cut(self) -> None:
        """Switch it off as a power cut does: it has no time to do anything."""
        if self._process is None:
            return
        if self._client.runstate.name != "IDLE":
            self._loop.run_until_complete(self._disconnect())
        # The guest learns nothing of it; qemu completes what it writes on this machine.
        self._process.kill(signal.SIGTERM)
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        while self._process.isalive():
            if time.monotonic() > deadline:
                self._process.kill(signal.SIGKILL)
            time.sleep(0.02)
        self._process.close()
        self._log_file.close()
        self._process = None

    async def _disconnect(self) -> None:
        try:
            await self._client.disconnect()
        except Exception:  # the machine may be gone already
            return

    @contextmanager
    def stage(self, what: str) -> Iterator[None]:
        """A part of a trial: the console's log names it, and so does the error if it fails."""
        line = f"--- stage: {what} ---"
        print(line)
        with self.log.open("ab") as log:
            log.write(f"\n{line}\n".encode())
        try:
            yield
        except Exception as error:
            if sys.version_info >= (3, 11):
                error.add_note(line)
            raise

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command, in which `_` stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}

        async def execute() -> Any:
            if self._client.runstate.name == "IDLE":
                deadline = time.monotonic() + COMMAND_TIMEOUT_S
                while not self._socket.exists() and time.monotonic() < deadline:
                    await asyncio.sleep(0.05)
                await self._client.connect(str(self._socket))
            return await self._client.execute(command, named)

        return self._loop.run_until_complete(execute())

    def ssh_port(self) -> int:
        """The port of this machine that leads to the guest's SSH."""
        output = self.qmp("human-monitor-command", command_line="info usernet")
        match = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", output)
        assert match, output
        return int(match[1])

    # --- the console ---

    def wait_for_console(self, pattern: str, timeout_s: float = BOOT_TIMEOUT_S) -> re.Match[bytes]:
        """Wait until the console shows `pattern`, over reboots too."""
        deadline = time.monotonic() + timeout_s
        found = REBOOTED
        while found == REBOOTED:
            left = max(0.0, deadline - time.monotonic())
            found = self.console.expect(
                [re.compile(pattern.encode(), re.DOTALL), pexpect.EOF, pexpect.TIMEOUT],
                timeout=left,
            )
            if found == REBOOTED and left and self.console.wait() == 0:
                self.power_cut()
                self.start()
            elif found:
                how = f"within {timeout_s} s"
                raise MachineError(f"no {pattern!r} on the console {how}; {self._log_end()}")
        match = self.console.match
        assert isinstance(match, re.Match)
        return match

    def wait_for_login(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Log in as root, and wait until all services are up."""
        self.wait_for_console(r"login: ", timeout_s)
        self.type("root\n")
        self.wait_for_console(r"[#] ", COMMAND_TIMEOUT_S)
        # No echo: what comes back is output only. No kernel messages in it, either.
        self.type("stty -echo; PS1=; dmesg -n 1; echo REA$((0))DY\n")
        self.wait_for_console(r"REA0DY\r*\n", COMMAND_TIMEOUT_S)
        # OpenRC has its folder rc.starting before it says which runlevel it is in.
        # Seldom, for what is waited for gets the processor that looking would take.
        self.succeed(
            "cd /run/openrc; until { read level <softlevel; [ $level = default ]; } &&"
            " [ ! -d rc.starting ]; do sleep 1; done"
        )

    def wait_until_confirmed(self) -> None:
        """Wait until the health checks are through and the slot may stay."""
        self.succeed(f"until [ -e /{RUN_CONFIRMED} ]; do sleep 1; done")

    def execute(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> tuple[int, str]:
        """Run a shell command; its exit code and its output, both streams together."""
        self._commands += 1
        # The pipe tells programs that nobody looks at their output: no colours, no pages.
        self.type(
            f"{{ sh -c {shlex.quote(command)} </dev/null 2>&1; echo $? >/tmp/code; }} | cat; "
            f"echo DON$((0))E{self._commands}:$(cat /tmp/code):\n"
        )
        match = self.wait_for_console(rf"DON0E{self._commands}:(\d+):\r*\n", timeout_s)
        output = self.console.before or b""
        return int(match[1]), output.decode(errors="replace").replace("\r", "")

    def type(self, text: str) -> None:
        """Type on the console, no faster than the serial line takes it."""
        data = text.encode()
        self.console.delaybeforesend = None
        for start in range(0, len(data), CHUNK):
            self.console.send(data[start : start + CHUNK])
            time.sleep(CHUNK_PAUSE_S)

    def _log_end(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return "\n".join([f"{self._state()}; the console, {self.log}, ends:", *lines])

    def _state(self) -> str:
        """What qemu says of the machine: whether it runs, and at which instructions it is."""
        if self._process is None or not self._process.isalive():
            return "qemu ended"
        try:
            registers = []
            for _ in range(3):
                status = self.qmp("query-status")["status"]
                output = self.qmp("human-monitor-command", command_line="info registers")
                registers += re.findall(r"\b([ER]IP=\S+)", output)
                time.sleep(0.5)
        except Exception as error:  # of the monitor; what is told is another one
            return f"qemu doesn't answer: {error!r}"
        return f"the machine is {status}, at {' '.join(registers)}"

    # --- what tests say ---

    def succeed(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a command that must succeed; its output."""
        code, output = self.execute(command, timeout_s)
        if code:
            raise MachineError(f"{command!r} failed with exit code {code}:\n{output}")
        return output

    def fail(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a command that must fail; its output."""
        code, output = self.execute(command, timeout_s)
        if not code:
            raise MachineError(f"{command!r} succeeded, and was to fail:\n{output}")
        return output

    def wait_until_succeeds(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a command again and again until it succeeds; its output."""
        deadline = time.monotonic() + timeout_s
        while True:
            code, output = self.execute(command, max(1, deadline - time.monotonic()))
            if not code:
                return output
            if time.monotonic() > deadline:
                raise MachineError(f"{command!r} still fails after {timeout_s} s:\n{output}")
            time.sleep(1)

    def wait_until(self, happened: Callable[[], bool], timeout_s: float) -> None:
        """Wait until something that is seen from outside is so, such as on the disk."""
        deadline = time.monotonic() + timeout_s
        while not happened():
            if time.monotonic() > deadline:
                raise MachineError(f"it did not happen within {timeout_s} s; {self._log_end()}")
            time.sleep(0.1)

    def watch(self, happened: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait until `happened`, over reboots too. Raises MachineError: `what` did not come."""
        deadline = time.monotonic() + timeout_s
        while not happened():
            if time.monotonic() > deadline:
                how = f"not within {timeout_s:.0f} s"
                raise MachineError(f"waiting until {what}: {how}; {self._log_end()}")
            if self.console.expect([pexpect.TIMEOUT, pexpect.EOF], timeout=1.0) == REBOOTED:
                if self.console.wait():
                    raise MachineError(f"the machine ended; {self._log_end()}")
                self.power_cut()
                self.start()

    def attach_usb(self, folder: Path, label: str, name: str = "stick1") -> None:
        """Plug in a stick with the files of a folder."""
        settings = dict(item.split("=", 1) for item in usb_stick(folder, label, name).split(","))
        settings["read-only"] = True  # type: ignore[assignment]
        self.qmp("blockdev-add", **settings)
        self.qmp("device_add", driver="usb-storage", id=f"{name}-device", drive=name, bus="usb.0")

    def detach_usb(self, name: str = "stick1") -> None:
        """Pull a stick out."""
        self.qmp("device_del", id=f"{name}-device")
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                self.qmp("blockdev-del", node_name=name)
                return
            except ExecuteError:  # the guest hasn't let go of it yet
                time.sleep(0.1)
        raise MachineError(f"{name} can't be pulled out")
