"""An installed root as the container packed it: a tar, of which single files are read."""

from __future__ import annotations

import tarfile
from typing import IO

from builder.core.errors import UserError


class Root:
    """The files of the root in `tar`: `members` has them by their path in it."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self.tar = tar
        self.members = {member.name.removeprefix("./"): member for member in tar}
        self.members.pop(".", None)

    def below(self, folder: str) -> list[str]:
        """The paths that begin with this, sorted."""
        return sorted(name for name in self.members if name.startswith(folder))

    def reader(self, member: tarfile.TarInfo) -> IO[bytes] | None:
        """What reads the content of a file; None where it is none."""
        return self.tar.extractfile(member) if member.isreg() or member.islnk() else None

    def content(self, name: str) -> bytes:
        """A whole file. Raises UserError where it isn't there."""
        reader = self.reader(self.members[name]) if name in self.members else None
        if not reader:
            raise UserError(f"the packages hold no file {name}")
        return reader.read()
