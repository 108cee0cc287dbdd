"""A folder as a server has it: `blobs/`, `releases/VERSION/`, `channels/` (updater/formats.py)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from builder.core.errors import UserError
from builder.core.files import folder_for, naming
from builder.releases.keys import Sign
from updater.errors import Refused
from updater.formats import (
    Blob,
    Channel,
    Manifest,
    open_manifest,
    render,
    version_key,
)
from updater.signature import PublicKey

BLOCK = 1 << 20
DISK_IMAGE = "disk.img.xz"  # what a release calls it


class Store:
    """Releases in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs"

    def release(self, version: str) -> Path:
        """The folder of a release."""
        return self.folder / "releases" / version

    def versions(self) -> list[str]:
        """The versions of all releases, the oldest first."""
        found = (self.folder / "releases").glob("*/manifest.json")
        return sorted((path.parent.name for path in found), key=version_key)

    def add_blob(self, path: Path) -> Blob:
        """Copy a file in, under its hash."""
        digest = hashlib.sha256()
        self.blobs.mkdir(parents=True, exist_ok=True)
        fresh = self.blobs / f".partial-{path.name}"
        try:
            with naming(self.blobs), path.open("rb") as source, fresh.open("wb") as target:
                while data := source.read(BLOCK):
                    digest.update(data)
                    target.write(data)
            fresh.rename(self.blobs / digest.hexdigest())
        finally:
            fresh.unlink(missing_ok=True)
        return Blob(digest.hexdigest(), path.stat().st_size)

    def add_release(self, manifest: Manifest, sign: Sign) -> None:
        """Sign a manifest whose blobs are here; a release that is here never changes."""
        target = self.release(manifest.version)
        if target.exists():
            raise UserError(f"release {manifest.version} exists already, in {target}")
        data = render(manifest)
        with folder_for(target) as folder:
            (folder / "manifest.json").write_bytes(data)
            comment = f"{manifest.os} {manifest.version}"
            (folder / "manifest.json.minisig").write_bytes(sign(data, comment))

    def manifest_digest(self, version: str) -> str:
        """The SHA-256 by which a channel names a release."""
        return hashlib.sha256((self.release(version) / "manifest.json").read_bytes()).hexdigest()

    def manifest(self, version: str, keys: list[PublicKey]) -> Manifest:
        """A release's manifest, verified. Raises UserError."""
        folder = self.release(version)
        if not folder.exists():
            known = ", ".join(self.versions()) or "none"
            raise UserError(
                f"there is no release {version} in {self.folder}", f"there are: {known}"
            )
        data = (folder / "manifest.json").read_bytes()
        signature = (folder / "manifest.json.minisig").read_bytes()
        try:
            return open_manifest(data, signature, keys, f"release {version}")
        except Refused as error:
            raise UserError(f"{folder}: {error}") from None


def unpack_disk(store: Store, manifest: Manifest, target: Path) -> None:
    """Put the disk image of a release to `target`."""
    from builder.releases.chunks import unpack_xz

    unpack_xz(store.blobs / manifest.files[DISK_IMAGE].sha256, target)


def channel_file(channel: Channel, sign: Sign) -> bytes:
    """A channel as it is published: one line, and the signature of that line."""
    data = render(channel)
    return data + sign(data, f"{channel.os} channel {channel.channel}")
