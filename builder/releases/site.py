"""The site as nodes get it: one archive, the same bytes wherever it is made."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from builder.core.errors import UserError
from builder.core.files import gzipped, read_text, read_toml
from builder.core.paths import PROJECT
from builder.core.sources import files_below
from updater.formats import VERSION
from updater.site import SITE_SIZE_MAX

FOLDER = PROJECT / "site"


def site_version(folder: Path = FOLDER) -> str:
    """The version in the site's own file. Raises UserError where it is none."""
    file = folder / "version"
    version = read_text(file).strip() if file.exists() else ""
    if not VERSION.fullmatch(version):
        raise UserError(f'{file}: found "{version}", wanted a version like 1.2.3')
    return version


def build_site(folder: Path = FOLDER) -> bytes:
    """The archive of a site. Raises UserError where nodes would refuse it."""
    site_version(folder)
    read_toml(folder / "inventory.toml")  # nodes could not read it, either
    if not os.access(folder / "apply", os.X_OK):
        raise UserError(f"{folder / 'apply'}: a site needs this program, and it must be executable")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        files = files_below(folder)
        parents = {parent for path in files for parent in path.relative_to(folder).parents}
        for inside in sorted({*parents, *(path.relative_to(folder) for path in files)} - {Path()}):
            path = folder / inside
            if path.is_symlink():
                raise UserError(f"{path}: a site holds files and folders only")
            info = tarfile.TarInfo(inside.as_posix())
            info.mode = 0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644
            if path.is_dir():
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                data = path.read_bytes()
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    archive = gzipped(buffer.getvalue(), 9)
    if len(archive) > SITE_SIZE_MAX:
        raise UserError(f"{folder}: {len(archive)} bytes packed, and nodes take {SITE_SIZE_MAX}")
    return archive


def encrypted_for(node: str, data: bytes, folder: Path = FOLDER) -> bytes:
    """A secret as only a node can read it. Raises UserError where its public key isn't known."""
    from builder.nodes.identity import age

    pyrage = age()
    inventory = folder / "inventory.toml"
    entry = read_toml(inventory).get("nodes", {}).get(node, {})
    try:
        key = pyrage.x25519.Recipient.from_str(entry.get("age", ""))
    except pyrage.RecipientError:
        raise UserError(
            f"{inventory}: node {node} has no public age key; inv node.new {node} makes it"
        ) from None
    sealed: bytes = pyrage.encrypt(data, [key])
    return sealed
