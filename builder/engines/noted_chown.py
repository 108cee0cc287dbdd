"""Notes which owners a job asks for, where giving them is faked.

A seccomp filter asks a listener about each `chown`. The listener finds the file, notes the owner
and takes away the bits that the kernel takes away there; then the call succeeds.

Sources: seccomp_unotify(2) and openat2(2), https://man7.org/linux/man-pages/man2/seccomp_unotify.2.html
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import socket
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from builder.core.arch import host_arch
from builder.engines import under_filter
from builder.engines.faked_chown import CHOWN, FCHOWN, FCHOWNAT, NOTIFY, SUCCEED, filter_program

CAPABILITIES = "security.capability"
NOTES = "owners.json"  # in the job's output folder

_RECEIVE, _SEND, _ID_VALID = 0xC0502100, 0xC0182101, 0x40082102  # SECCOMP_IOCTL_NOTIF_*
_SET_FLAGS, _SYNC_WAKE_UP = 0x40082104, 1
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_RESPONSE = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_OPENAT2 = 437
_RESOLVE_IN_ROOT = 0x10
_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = 0x100, 0x1000
_PATH_MAX = 4096
_UNCHANGED = 0xFFFFFFFF

_kernel = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Note:
    """Whose a file shall be. None leaves what it was.

    `copied`: by a program that gave a fresh file the owner of the one it replaces, as `sed -i`
    does. What it saw was the owner here, not the one that was asked for before.
    """

    device: int
    inode: int
    path: str  # when it was asked for, in the job's view
    uid: int | None
    gid: int | None
    copied: bool = False
    stripped: bool = False  # of capabilities, which a file loses when it gets another owner


def read_notes(path: Path) -> list[Note]:
    """The notes of a job, in the order in which they were made."""
    return [Note(**note) for note in json.loads(path.read_text())]


@contextmanager
def noted(output: Path) -> Iterator[tuple[list[str], list[int]]]:
    """Yields the words before a command and the descriptors it needs, to note its owners.

    At the end they are in `output`/owners.json, which isn't there if the kernel can't notify.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as pool:
        filters = [in_memory(filter_program(answer)) for answer in (NOTIFY, SUCCEED)]
        descriptors = [theirs.fileno(), *filters]
        listening = pool.submit(_listen, ours)
        try:
            words = [sys.executable, "-I", "-S", str(under_filter.__file__)]
            words.append(str(host_arch().seccomp))
            yield words + [str(descriptor) for descriptor in descriptors], descriptors
        finally:
            # The listener's end: of the socket if none came, else of all that ran under it.
            theirs.close()
            for descriptor in filters:
                os.close(descriptor)
        if (notes := listening.result()) is not None:
            (output / NOTES).write_text(json.dumps([asdict(note) for note in notes]))


def in_memory(data: bytes) -> int:
    """An open file with this content, for a program to inherit."""
    descriptor = os.memfd_create("belay", 0)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _listen(channel: socket.socket) -> list[Note] | None:
    """Answer until nothing is left that could ask; the notes, or None if no listener came."""
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not descriptors:
        return None
    (listener,) = descriptors
    with suppress(OSError):  # since Linux 6.6; each answer is quicker by it
        fcntl.ioctl(listener, _SET_FLAGS, _SYNC_WAKE_UP)
    answers = _Answers(listener)
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    try:
        while waiting.poll()[0][1] & select.POLLIN:
            answers.answer()
    finally:
        os.close(listener)  # with it, what still asks is refused
    return answers.notes


class _Answers:
    """Answers what a listener is asked, and notes it."""

    def __init__(self, listener: int) -> None:
        self.listener = listener
        self.notes: list[Note] = []
        self._known: set[tuple[int, int]] = set()  # files that have a note
        self._apk: set[int] = set()  # processes

    def answer(self) -> None:
        """Answer one call."""
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, buffer)
            number, pid, _, call, _, _, *arguments = _NOTIFICATION.unpack(buffer)
            # So apk gives each new file to root, thousands of them: they are root's.
            at_once = call == FCHOWNAT and arguments[2] == arguments[3] == 0 and self._is_apk(pid)
            code = 0 if at_once else self._note(number, pid, call, arguments)
            fcntl.ioctl(self.listener, _SEND, _RESPONSE.pack(number, 0, code, 0))
        except FileNotFoundError:  # who asked has gone
            return

    def _is_apk(self, pid: int) -> bool:
        if pid not in self._apk:
            if Path(f"/proc/{pid}/exe").readlink().name not in ("apk", "apk.static"):
                return False
            self._apk.add(pid)
        return True

    def _note(self, number: int, pid: int, call: int, arguments: Sequence[int]) -> int:
        """Note what is asked for; the error to answer with, or 0."""
        try:
            with _file(self.listener, number, pid, call, arguments) as file:
                note = _note(file, call, arguments, _unsaid(pid))
        except OSError as error:
            return -(error.errno or errno.EPERM)
        inode = (note.device, note.inode)
        if note.copied and inode in self._known:  # of no fresh file, so it was meant
            note = replace(note, copied=False)
        if not note.copied:
            self._known.add(inode)
        self.notes.append(note)
        return 0


@contextmanager
def _file(
    listener: int, number: int, pid: int, call: int, arguments: Sequence[int]
) -> Iterator[int]:
    """The file that a call is about, open for no use. Raises OSError as the call would."""
    process = f"/proc/{pid}"
    if call == FCHOWN:
        file = os.open(f"{process}/fd/{arguments[0] & 0xFFFFFFFF}", os.O_PATH | os.O_CLOEXEC)
    else:
        base, pointer, flags = _AT_FDCWD, arguments[0], 0
        if call == FCHOWNAT:
            base, pointer, flags = _signed(arguments[0]), arguments[1], arguments[4]
        elif call != CHOWN:
            flags = _AT_SYMLINK_NOFOLLOW
        name = _string(f"{process}/mem", pointer)
        if not name and not flags & _AT_EMPTY_PATH:
            raise FileNotFoundError(errno.ENOENT, "an empty path")
        start = f"{process}/cwd" if base == _AT_FDCWD else f"{process}/fd/{base}"
        file = _open(f"{process}/root", start, name, follow=not flags & _AT_SYMLINK_NOFOLLOW)
    try:
        # Else the process may have ended, and another have its number.
        fcntl.ioctl(listener, _ID_VALID, struct.pack("=Q", number))
        yield file
    finally:
        os.close(file)


def _open(root: str, start: str, name: bytes, *, follow: bool) -> int:
    """Open `name`, seen from the folder `start` of a process with this root."""
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    if not name:
        return os.open(start, flags & ~os.O_NOFOLLOW)
    if not name.startswith(b"/"):
        # Links may lead up and start anew at the root, so the path has to begin there. What the
        # kernel says of both places is seen from the root of the job.
        above, beginning = (os.fsencode(Path(link).readlink()) for link in (root, start))
        inside = beginning.removeprefix(above.rstrip(b"/"))
        if inside == beginning and above != b"/":
            return os.open(os.fsencode(start) + b"/" + name, flags)  # outside of its own root
        name = inside + b"/" + name
    folder = os.open(root, os.O_PATH | os.O_CLOEXEC)
    try:
        how = struct.pack("=QQQ", flags, 0, _RESOLVE_IN_ROOT)  # struct open_how
        opened: int = _kernel.syscall(_OPENAT2, folder, name, how, len(how))
    finally:
        os.close(folder)
    if opened < 0:
        raise OSError(ctypes.get_errno(), "openat2")
    return opened


def _note(file: int, call: int, arguments: Sequence[int], unsaid: tuple[bool, bool]) -> Note:
    """The note of a call, after which the file has lost the bits that the kernel takes away.

    So does `chown_common` of the kernel, also for root: of an owner's rights nothing passes on.
    `unsaid`: whether user and group are not the caller's wish if they are root's.
    """
    status = os.fstat(file)
    at = 2 if call == FCHOWNAT else 1
    wanted = tuple(arguments[index] & _UNCHANGED for index in (at, at + 1))
    uid, gid = (
        None if number == _UNCHANGED or (number == 0 and not_said) else number
        for number, not_said in zip(wanted, unsaid, strict=True)
    )
    itself = Path(f"/proc/self/fd/{file}")
    if stat.S_ISREG(status.st_mode):
        mode = status.st_mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            mode &= ~stat.S_ISGID
        if mode != status.st_mode:
            itself.chmod(stat.S_IMODE(mode))
    return Note(
        status.st_dev,
        status.st_ino,
        str(itself.readlink()),
        uid,
        gid,
        copied=call == FCHOWN and uid == gid == 0,
        stripped=stat.S_ISREG(status.st_mode) and CAPABILITIES in os.listxattr(itself),
    )


def _unsaid(pid: int) -> tuple[bool, bool]:
    """Whether a process is a `chown` or `chgrp` that was told no user, and no group.

    Busybox gives what it wasn't told as it sees it, and here it sees root.
    """
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    names = [word.rpartition(b"/")[2] for word in words[:2]]
    if names[0] == b"busybox":
        names, words = names[1:], words[1:]
    wish = next((word for word in words[1:] if not word.startswith(b"-")), b"")
    if names[0] == b"chgrp":
        return True, False
    if names[0] == b"chown":
        user, colon, _ = wish.partition(b":")
        return not user, not colon
    return False, False


def _string(memory: str, pointer: int) -> bytes:
    """The string at an address of a process. Raises OSError where there is none."""
    descriptor = os.open(memory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text, end, _ = os.pread(descriptor, _PATH_MAX, pointer).partition(b"\0")
    finally:
        os.close(descriptor)
    if not end:
        raise OSError(errno.ENAMETOOLONG, "no end of the path")
    return text


def _signed(word: int) -> int:
    """An int of C, of which the kernel says 64 bits."""
    return (word & 0xFFFFFFFF) - ((word & 0x80000000) << 1)
