"""Notes how large a part is, for the step that joins the parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def note_size(folder: Path, _inputs: Mapping[str, Path]) -> None:
    """Write how many bytes the squashfs in `folder` has beside it, as NAME.size."""
    (path,) = folder.glob("*.squashfs")
    path.with_suffix(".size").write_text(f"{path.stat().st_size}\n")
