"""Programs of the host that Belay runs and doesn't bring itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from tasks.core.commands import run
from tasks.core.errors import UserError
from tasks.core.output import say
from tasks.core.paths import LOGS

# Servers lie there; Debian leaves it out of the PATH of ordinary users.
SYSTEM_PROGRAMS = "/usr/local/sbin:/usr/sbin:/sbin"

# What brings each, on Debian and Ubuntu.
DEBIAN_PACKAGES = {
    "bwrap": "bubblewrap",
    "curl": "curl",
    "dockerd": "docker.io",
    "minisign": "minisign",
    "nginx": "nginx-light",
    "podman": "podman",
    "qemu-system-x86_64": "qemu-system-x86 ovmf",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "xorriso": "xorriso",
    "xz": "xz-utils",
}
TESTS_USE = ("minisign", "nginx", "qemu-system-x86_64", "ssh", "ssh-keygen", "sshd")


def missing_programs(names: Iterable[str]) -> list[str]:
    """Those that this machine hasn't got."""
    return [name for name in names if not _which(name)]


def install_command(names: Iterable[str]) -> str:
    """The one command that brings programs to Debian or Ubuntu, for root."""
    return f"apt-get install -y --no-install-recommends {' '.join(_packages(names))}"


def require_program(name: str) -> str:
    """The path of a program. Root on Debian or Ubuntu gets it installed; others are told how."""
    require_programs([name])
    return _which(name) or name


def require_programs(names: Iterable[str]) -> None:
    """See to it that all of them are there; see require_program."""
    if not (missing := missing_programs(names)):
        return
    if os.getuid() != 0 or not shutil.which("apt-get"):
        how = "is not installed" if len(missing) == 1 else "are not installed"
        raise UserError(
            f"{', '.join(missing)} {how}; on Debian or Ubuntu, as root: {install_command(missing)}"
        )
    packages = _packages(missing)
    words = " ".join(packages)
    say(f"installing {words} (by apt-get, as {', '.join(missing)} is missing)")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    log, what = LOGS / "apt-get.log", f"installing {words}"
    run(["apt-get", "-q", "update"], log=log, what=what, env=environ)
    install = ["apt-get", "-q", "install", "-y", "--no-install-recommends"]
    # In the middle of it, nothing could be installed afterwards.
    run([*install, *packages], log=log, what=what, env=environ, whole=True)
    if still := missing_programs(missing):
        raise UserError(f"{words} brought no {', '.join(still)}; the output: {log}")


def _packages(names: Iterable[str]) -> list[str]:
    return sorted({word for name in names for word in DEBIAN_PACKAGES[name].split()})


def _which(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=SYSTEM_PROGRAMS)
