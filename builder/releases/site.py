"""The site as nodes get it: one archive, the same bytes wherever it is made."""

from __future__ import annotations

import os
from pathlib import Path

from builder.core.errors import UserError
from builder.core.files import gzipped, read_text, read_toml
from builder.core.paths import PROJECT
from builder.core.sources import files_below
from updater.formats import VERSION
from updater.site_archive import APPLY, SITE_SIZE_MAX, VERSION_FILE, pack

SITE_FOLDER = PROJECT / "site"


def site_version(folder: Path = SITE_FOLDER) -> str:
    """The version in the site's own file. Raises UserError where it is none."""
    file = folder / VERSION_FILE
    version = read_text(file).strip() if file.exists() else ""
    if not VERSION.fullmatch(version):
        raise UserError(f'{file}: found "{version}", wanted a version like 1.2.3')
    return version


def build_site(folder: Path = SITE_FOLDER) -> bytes:
    """The archive of a site. Raises UserError where nodes would refuse it."""
    site_version(folder)
    read_toml(folder / "inventory.toml")  # nodes could not read it, either
    if not os.access(folder / APPLY, os.X_OK):
        raise UserError(f"{folder / APPLY}: a site needs this program, and it must be executable")
    files = files_below(folder)
    parents = {parent for path in files for parent in path.relative_to(folder).parents}
    names = sorted({*parents, *(path.relative_to(folder) for path in files)} - {Path()})
    for name in names:
        if (folder / name).is_symlink():
            raise UserError(f"{folder / name}: a site holds files and folders only")
    archive = gzipped(pack((name.as_posix(), folder / name) for name in names), 9)
    if len(archive) > SITE_SIZE_MAX:
        raise UserError(f"{folder}: {len(archive)} bytes packed, and nodes take {SITE_SIZE_MAX}")
    return archive


def encrypted_for(node: str, data: bytes, folder: Path = SITE_FOLDER) -> bytes:
    """A secret as only a node can read it. Raises UserError where its public key isn't known."""
    from builder.nodes.identity import age

    pyrage = age()
    inventory = folder / "inventory.toml"
    entry = read_toml(inventory).get("nodes", {}).get(node, {})
    try:
        key = pyrage.x25519.Recipient.from_str(entry.get("age", ""))
    except pyrage.RecipientError:
        raise UserError(
            f"{inventory}: node {node} has no public age key", f"inv node.new {node} makes it"
        ) from None
    sealed: bytes = pyrage.encrypt(data, [key])
    return sealed
