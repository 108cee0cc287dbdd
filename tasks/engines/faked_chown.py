"""A seccomp filter under which changing a file's owner succeeds and does nothing.

An unprivileged user namespace has one user only, so `chown` to any other fails there, and with it
the installation of packages. The real owners are put back when a file system is packed
(`tasks/alpine/tree.py`). Who has to know which owners were asked for lets the filter notify
(`noted_chown.py`).

Format: classic BPF over `struct seccomp_data`, https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import struct

CHOWN, FCHOWN, LCHOWN, FCHOWNAT = 92, 93, 94, 260  # on x86-64

SUCCEED = 0x00050000  # SECCOMP_RET_ERRNO with errno 0
NOTIFY = 0x7FC00000  # SECCOMP_RET_USER_NOTIF: a listener answers

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16
_AUDIT_ARCH_X86_64 = 0xC000003E
_AT_SYMLINK_NOFOLLOW = 0x100


def filter_program(answer: int = SUCCEED) -> bytes:
    """The filter, as bubblewrap's `--seccomp` takes it; `answer` is what becomes of the calls.

    So apk gives each new file to root (user, group, flags); that is nothing to ask anybody about.
    """
    uid, gid, flags = (_OFFSET_ARGUMENTS + 8 * place for place in (2, 3, 4))
    # Each with the distances to jump where the word is equal, and where it isn't.
    program = [
        (_LOAD_WORD, 0, 0, _OFFSET_ARCH),
        (_JUMP_IF_EQUAL, 0, 11, _AUDIT_ARCH_X86_64),
        (_LOAD_WORD, 0, 0, _OFFSET_NR),
        (_JUMP_IF_EQUAL, 10, 0, CHOWN),
        (_JUMP_IF_EQUAL, 9, 0, FCHOWN),
        (_JUMP_IF_EQUAL, 8, 0, LCHOWN),
        (_JUMP_IF_EQUAL, 0, 6, FCHOWNAT),
        (_LOAD_WORD, 0, 0, uid),
        (_JUMP_IF_EQUAL, 0, 5, 0),
        (_LOAD_WORD, 0, 0, gid),
        (_JUMP_IF_EQUAL, 0, 3, 0),
        (_LOAD_WORD, 0, 0, flags),
        (_JUMP_IF_EQUAL, 2, 1, _AT_SYMLINK_NOFOLLOW),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, answer),
        (_RETURN, 0, 0, SUCCEED),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
