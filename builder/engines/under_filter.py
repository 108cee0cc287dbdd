"""Starts a program under a seccomp filter, and sends the filter's listener through a socket.

    python -I -S under_filter.py SECCOMP SOCKET NOTIFYING OTHERWISE PROGRAM ARGUMENT...

The number of the system call seccomp here, and three descriptors: of the socket, and of two
filters. Where the kernel can't do what a listener needs (Linux 5.6), or another program listens,
the second is taken and no listener is sent.

A program of its own, as a filter is for good and is handed down; it imports nothing of Belay.
Source: seccomp(2), https://man7.org/linux/man-pages/man2/seccomp.2.html
"""

import ctypes
import errno
import os
import socket
import struct
import sys

SET_NO_NEW_PRIVS = 38  # of prctl; without it only root may set filters
SET_MODE_FILTER = 1
NEW_LISTENER = 8
OPENAT2 = 437  # a system call by which the listener finds files
INSTRUCTION_BYTES = 8


def main(seccomp: int, channel: int, notifying: int, otherwise: int, command: list[str]) -> None:
    """Become `command`. Raises OSError where no filter can be set."""
    kernel = ctypes.CDLL(None, use_errno=True)
    if kernel.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "SECCOMP: no_new_privs")
    with socket.socket(fileno=channel) as sender:
        kernel.syscall(OPENAT2, -1, None, None, 0)
        known = ctypes.get_errno() != errno.ENOSYS
        listener = _set(kernel, seccomp, notifying, NEW_LISTENER) if known else -1
        if listener >= 0:
            socket.send_fds(sender, [b"+"], [listener])
            os.close(listener)
        elif _set(kernel, seccomp, otherwise, 0):
            raise OSError(ctypes.get_errno(), "SECCOMP: no filter")
        else:
            sender.send(b"-")
    os.execv(command[0], command)


def _set(kernel: ctypes.CDLL, seccomp: int, descriptor: int, flags: int) -> int:
    with os.fdopen(descriptor, "rb") as file:
        code = file.read()
    instructions = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog
    program = struct.pack("@HP", len(code) // INSTRUCTION_BYTES, ctypes.addressof(instructions))
    result: int = kernel.syscall(seccomp, SET_MODE_FILTER, flags, program)
    return result


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:5]]
    main(numbers[0], numbers[1], numbers[2], numbers[3], sys.argv[5:])
