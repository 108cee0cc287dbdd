"""Lets jobs run programs of another architecture: the kernel hands them to an emulator.

That is the kernel's binfmt_misc, https://docs.kernel.org/admin-guide/binfmt-misc.html. From Linux
6.7 on each user namespace has its own. So a job registers the emulator for itself alone, nothing of
it is seen outside, and no root is needed. The kernel opens the emulator when it is registered: no
root of another architecture has to hold it.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

from builder.core.arch import ARCHES, Arch
from builder.core.errors import UserError

HOST_ENTRIES = Path("/proc/sys/fs/binfmt_misc")
FAILED = "belay: the kernel takes no emulator"
# P: programs see the name that they were called by. F: open the emulator now.
_REGISTER = f"""\
mkdir /run/emulator
mount -t binfmt_misc none /run/emulator && printf %s "$0" >/run/emulator/register || {{
	echo "{FAILED}"
	exit 1
}}
exec "$@"
"""


def _magic(arch: Arch) -> tuple[bytes, bytes]:
    """The begin of an ELF program, and which of its bits count: /usr/include/elf.h."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    magic = ident + (2).to_bytes(2, "little") + arch.elf_machine.to_bytes(2, "little")
    # Neither the byte for the kind of system counts, nor whether it lies at a fixed address.
    return magic, b"\xff" * 7 + b"\0" + b"\xff" * 8 + b"\xfe\xff\xff\xff"


def is_registered(arch: Arch) -> bool:
    """Whether all of this machine runs such programs already, also in containers."""
    magic, _ = _magic(arch)
    wanted = re.compile(rf"enabled\n.*flags: \w*F.*magic {magic.hex()}\n", re.DOTALL)
    try:
        return any(wanted.match(entry.read_text()) for entry in HOST_ENTRIES.glob("qemu-*"))
    except OSError:
        return False


def emulated(name: str, argv: tuple[str, ...]) -> tuple[str, ...]:
    """`argv` behind what lets it run programs of that architecture; "": of this one alone."""
    if not name or is_registered(ARCHES[name]):
        return argv
    magic, mask = ("".join(f"\\x{byte:02x}" for byte in data) for data in _magic(ARCHES[name]))
    rule = f":belay:M::{magic}:{mask}:/usr/bin/{ARCHES[name].emulator}:PF"
    return ("/bin/sh", "-c", _REGISTER, rule, *argv)


def refused(name: str) -> UserError:
    """What to say where the kernel takes no emulator."""
    return UserError(
        f"building for {name} on {platform.machine()} takes an emulator, which this kernel "
        f"({platform.release()}) lets nobody but root register",
        "use Linux 6.7 or newer, with its module binfmt_misc loaded; or register emulators for "
        "the whole machine, as root, on Debian or Ubuntu: apt-get install -y qemu-user-static",
    )
