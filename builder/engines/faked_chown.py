"""A seccomp filter under which changing a file's owner succeeds and does nothing.

An unprivileged user namespace has one user only, so `chown` to any other fails there, and with it
the installation of packages. The real owners are put back when a file system is packed
(`builder/alpine/chroot.py`). Who has to know which owners were asked for lets the filter notify
(`noted_chown.py`).

Format: classic BPF over `struct seccomp_data`, https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import struct

from builder.core.arch import host_arch

CHOWN, FCHOWN, LCHOWN, FCHOWNAT = host_arch().chowns

SUCCEED = 0x00050000  # SECCOMP_RET_ERRNO with errno 0
NOTIFY = 0x7FC00000  # SECCOMP_RET_USER_NOTIF: a listener answers

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
_OFFSET_NR, _OFFSET_ARCH = 0, 4


def filter_program(answer: int = SUCCEED) -> bytes:
    """The filter, as bubblewrap's `--seccomp` takes it; `answer` is what becomes of the calls."""
    calls = [call for call in (CHOWN, FCHOWN, LCHOWN, FCHOWNAT) if call >= 0]
    to_answer = len(calls) + 1  # from the architecture check to the last instruction
    program = [
        (_LOAD_WORD, 0, 0, _OFFSET_ARCH),
        (_JUMP_IF_EQUAL, 0, to_answer, host_arch().audit),  # other: skip to "allow"
        (_LOAD_WORD, 0, 0, _OFFSET_NR),
        *((_JUMP_IF_EQUAL, len(calls) - index, 0, number) for index, number in enumerate(calls)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, answer),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
