"""The one error that ends a task with a message and no traceback."""

import errno

from invoke.exceptions import Exit


class UserError(Exit):
    """Something the user can put right: says where, what was found, what was wanted, what to do.

    `found` says where it is and what is wrong, `hint` what to do about it.
    """

    def __init__(self, found: str, hint: str = "") -> None:
        super().__init__(message=f"{found}; {hint}" if hint else found, code=1)
        self.found, self.hint = found, hint

    def __str__(self) -> str:
        return str(self.message)


REMEDIES = {
    errno.ENOSPC: "no space left on the disk; make room, then run it again",
    errno.EDQUOT: "your quota on this disk is used up; make room, then run it again",
    errno.EROFS: "it lies on a file system that can't be written; choose another place",
    errno.EACCES: "you may not read or write it; change its owner or mode, or choose another place",
    errno.EPERM: "you may not read or write it; change its owner or mode, or choose another place",
    errno.ENOENT: "there is no such file or folder",
    errno.EIO: "the disk failed to read or write it; look at what the kernel says: dmesg",
}


def explained(error: OSError) -> UserError:
    """An error of the operating system in a sentence: which file, what is wrong, what to do."""
    why = REMEDIES.get(error.errno or 0, error.strerror or str(error))
    # A scratch file is nothing that the user knows: its folder is.
    path = str(error.filename or "").partition("/.partial-")[0]
    found, _, hint = why.partition("; ")
    return UserError(f"{path}: {found}" if path else found, hint)
