"""What services source, in a root of files: so their shell code runs there as on a node."""

from __future__ import annotations

import shutil
from pathlib import Path

from builder.core import contract
from builder.core.paths import PROJECT

OVERLAY = PROJECT / "rootfs/overlay"


def add_library(root: Path, copy: bool = False) -> None:
    """Put `/usr/lib/belay` there, as the step `rootfs` does; links, or copies."""
    library = root / "usr/lib/belay"
    library.mkdir(parents=True)
    for path in (OVERLAY / "usr/lib/belay").iterdir():
        if copy:
            shutil.copy(path, library)
        else:
            (library / path.name).symlink_to(path)
    (library / "contract.sh").write_text(contract.for_shell())
