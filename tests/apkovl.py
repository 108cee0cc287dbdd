"""Overlay archives for tests, honest ones and others."""

from __future__ import annotations

import io
import tarfile


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """A member of an archive without content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def archive(*entries: tarfile.TarInfo, **files: str) -> bytes:
    """An archive of these members, and of files with this text; `__` in a name stands for `/`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info in entries:
            tar.addfile(info)
        for name, text in files.items():
            info = entry(name.replace("__", "/"))
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()
