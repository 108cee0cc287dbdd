"""Programs of the host that Belay runs and doesn't bring itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from tasks.core.commands import run
from tasks.core.errors import UserError
from tasks.core.output import say
from tasks.core.paths import LOGS

# Servers lie there; Debian leaves it out of the PATH of ordinary users.
SYSTEM_PROGRAMS = "/usr/local/sbin:/usr/sbin:/sbin"


def require_program(name: str, debian_packages: Sequence[str]) -> str:
    """The path of a program. Root on Debian or Ubuntu gets it installed; others are told how."""
    if found := _which(name):
        return found
    words = " ".join(debian_packages)
    if os.getuid() != 0 or not shutil.which("apt-get"):
        raise UserError(
            f"{name} is not installed; on Debian or Ubuntu, as root: "
            f"apt-get install -y --no-install-recommends {words}"
        )
    say(f"installing {words} (by apt-get, as {name} is missing)")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    log, what = LOGS / "apt-get.log", f"installing {words}"
    run(["apt-get", "-q", "update"], log=log, what=what, env=environ)
    install = ["apt-get", "-q", "install", "-y", "--no-install-recommends"]
    # In the middle of it, nothing could be installed afterwards.
    run([*install, *debian_packages], log=log, what=what, env=environ, whole=True)
    if not (found := _which(name)):
        raise UserError(f"{words} brought no {name}; the output: {log}")
    return found


def _which(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=SYSTEM_PROGRAMS)
