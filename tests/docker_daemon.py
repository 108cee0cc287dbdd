"""A docker daemon for tests: the one that is there, or one of our own that ends with the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_TIMEOUT_S = 90


class NoDaemon(Exception):
    """Neither is there a daemon, nor can one be started."""


@contextmanager
def docker_daemon() -> Iterator[str]:
    """The DOCKER_HOST of a daemon that answers. Raises NoDaemon where that can't be."""
    if host := os.environ.get("DOCKER_HOST"):
        yield host
        return
    with own_daemon() as host:
        yield host


@contextmanager
def own_podman() -> Iterator[str]:
    """The DOCKER_HOST of a podman of our own, with a storage of its own. Raises NoDaemon."""
    if not shutil.which("podman"):
        raise NoDaemon("podman is not installed (Debian: podman)")
    folder = Path(tempfile.mkdtemp(prefix="bp-", dir="/tmp"))
    options = [f"--{name}={folder / name}" for name in ("root", "runroot")]
    how = ["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=file"]
    service = ["system", "service", "--time=0", f"unix://{folder / 'sock'}"]
    with (folder / "log").open("wb") as sink:
        process = subprocess.Popen(
            ["podman", *options, *how, *service],
            stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        _wait_for_socket(folder / "sock", process, folder / "log")
        yield f"unix://{folder / 'sock'}"
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_socket(socket: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            end = log.read_text(errors="replace")[-2000:]
            raise NoDaemon(f"{process.args!r} doesn't start:\n{end}")
        time.sleep(0.1)


@contextmanager
def own_daemon(disk_mib: int = 0) -> Iterator[str]:
    """The DOCKER_HOST of a daemon of our own, with a disk of `disk_mib`, or all that there is."""
    if os.getuid() != 0 or not shutil.which("dockerd"):
        raise NoDaemon("docker tests need DOCKER_HOST, or root and dockerd (Debian: docker.io)")
    # The path of a socket may have 104 characters only.
    folder = Path(tempfile.mkdtemp(prefix="bd-", dir="/tmp"))
    socket = folder / "sock"
    log = folder / "log"
    (folder / "lib").mkdir()
    if disk_mib:
        size = f"size={disk_mib}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "disk", folder / "lib"], check=True)
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [
                *("dockerd", "--data-root", folder / "lib", "--exec-root", folder / "exec"),
                *("--pidfile", folder / "pid", "-H", f"unix://{socket}"),
                *("--iptables=false", "--ip6tables=false", "--bridge=none"),
            ],
            stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        _wait_for_socket(socket, process, log)
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait(60)
        # The daemon mounts it on itself.
        for _ in range(2):
            subprocess.run(["umount", folder / "lib"], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)
