"""Programs of the host that Belay runs and doesn't bring itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from builder.core.arch import ARCHES
from builder.core.commands import run
from builder.core.errors import UserError
from builder.core.output import say
from builder.core.paths import LOGS

# Servers lie there; Debian leaves it out of the PATH of ordinary users.
SYSTEM_PROGRAMS = "/usr/local/sbin:/usr/sbin:/sbin"

# The packages that bring each: on Debian and Ubuntu, and on Alpine.
PACKAGES = {
    "bwrap": ("bubblewrap", "bubblewrap"),
    "casync": ("casync", "casync"),
    "curl": ("curl", "curl"),
    "dot": ("graphviz", "graphviz"),
    "minisign": ("minisign", "minisign"),
    "nginx": ("nginx-light", "nginx"),
    **{arch.qemu: arch.qemu_packages for arch in ARCHES.values()},
    "shellcheck": ("shellcheck", "shellcheck"),
    "shfmt": ("shfmt", "shfmt"),
    "ssh": ("openssh-client", "openssh-client"),
    "ssh-keygen": ("openssh-client", "openssh-client"),
    "sshd": ("openssh-server", "openssh-server"),
    "xdelta3": ("xdelta3", "xdelta3"),
    "xorriso": ("xorriso", "xorriso"),
    "xz": ("xz-utils", "xz"),
    "zck": ("zchunk", "zchunk"),
    "zstd": ("zstd", "zstd"),
}
APT_INSTALL = "apt-get install -y --no-install-recommends"
TESTS_USE = (
    *("dot", "minisign", "nginx", "ssh", "ssh-keygen", "sshd"),
    *(arch.qemu for arch in ARCHES.values()),
)


def missing_programs(names: Iterable[str]) -> list[str]:
    """Those that this machine hasn't got."""
    return [name for name in names if not _which(name)]


def install_command(names: Iterable[str]) -> str:
    """The one command that brings programs, for root: on Alpine, else on Debian and Ubuntu."""
    words = " ".join(_packages(names))
    return f"apk add {words}" if _is_alpine() else f"{APT_INSTALL} {words}"


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
        where = "as root" if _is_alpine() else "on Debian or Ubuntu, as root"
        raise UserError(f"{', '.join(missing)} {how}", f"{where}: {install_command(missing)}")
    packages = _packages(missing)
    words = " ".join(packages)
    say(f"installing {words} (by apt-get, as {', '.join(missing)} is missing)")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    log, what = LOGS / "apt-get.log", f"installing {words}"
    run(["apt-get", "-q", "update"], log=log, what=what, env=environ)
    # In the middle of it, nothing could be installed afterwards.
    run([*APT_INSTALL.split(), *packages], log=log, what=what, env=environ, whole=True)
    if still := missing_programs(missing):
        raise UserError(f"{words} brought no {', '.join(still)}", f"the output: {log}")


def _packages(names: Iterable[str]) -> list[str]:
    return sorted({word for name in names for word in PACKAGES[name][_is_alpine()].split()})


def _is_alpine() -> bool:
    return _which("apk") is not None and not _which("apt-get")


def _which(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=SYSTEM_PROGRAMS)
