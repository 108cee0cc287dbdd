"""Publishes a release: blobs first, then the manifest, the channel last.

Whoever looks at the server at any moment finds a channel whose release is whole.
"""

from __future__ import annotations

import difflib
import hashlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from builder.core.errors import UserError
from builder.core.files import DAY_S
from builder.core.output import confirmed, say
from builder.core.progress import Progress
from builder.releases.keys import Sign
from builder.releases.store import Store, channel_file
from builder.releases.targets import Target
from updater.errors import UpdateError
from updater.formats import (
    MANIFEST_SIZE_MAX,
    NAME_PATTERN,
    SIGNATURE_SIZE_MAX,
    Blob,
    Channel,
    Manifest,
    open_channel,
    open_manifest,
)
from updater.signature import PublicKey
from updater.source import Source
from updater.update import cut, unpacked

CHANNELS = "channels/"
SITE = ".site"  # the channel `stable.site` has the site for the nodes of `stable`


@dataclass(frozen=True)
class File:
    """A file to upload: `name` at the target."""

    path: Path
    name: str


def missing(store: Store, manifest: Manifest, target: Target) -> list[File]:
    """What the target hasn't got of a release, in the order in which it is to come.

    Raises UserError where it has another release of that version.
    """
    sizes = target.sizes()
    deltas = [delta.blob for delta in manifest.slot.deltas]
    blobs = dict.fromkeys([manifest.slot.blob, *deltas, *manifest.files.values()])
    wanted = [
        File(store.blobs / blob.sha256, f"blobs/{blob.sha256}")
        for blob in blobs
        if sizes.get(f"blobs/{blob.sha256}") != blob.size
    ]
    for name in ("manifest.json.minisig", "manifest.json"):
        path = store.release(manifest.version) / name
        remote = f"releases/{manifest.version}/{name}"
        if remote not in sizes:
            wanted.append(File(path, remote))
        elif name == "manifest.json" and target.get(remote) != path.read_bytes():
            raise UserError(
                f"{target.name} has another release {manifest.version}: a release never changes",
                "take the next version",
            )
    return wanted


def upload(files: list[File], target: Target, progress: Progress) -> int:
    """Bring the files, in order; their bytes."""
    total = sum(file.path.stat().st_size for file in files)
    done = 0
    with progress.transfer("upload") as transferred:
        for file in files:
            transferred(done, total)
            target.put(file.path, file.name)
            done += file.path.stat().st_size
    return done


def new_channel(store: Store, manifest: Manifest, name: str, downgrade: bool) -> Channel:
    """A channel that points to a release. Its times are those of `move_channel`."""
    digest = store.manifest_digest(manifest.version)
    return Channel(manifest.os, name, manifest.version, digest, 0, 0, downgrade)


def check_channel_name(name: str) -> None:
    """Raise UserError where nodes would refuse a channel of that name."""
    if not NAME_PATTERN.fullmatch(name) or name.endswith(SITE):
        raise UserError(
            f'"{name}" is no name for a channel',
            f"wanted small letters, digits, . _ -, and not {SITE} at its end",
        )


def require_channel(target: Target, name: str, asked: str, new: bool) -> None:
    """Raise UserError where a channel isn't there and nobody wants a `new` one.

    No node would look at it: a mistyped name publishes to nobody. `asked` is the channel for which
    nodes of this image ask, which is no mistake.
    """
    check_channel_name(name)
    names = sorted({known.removesuffix(SITE) for known in channel_names(target)})
    if name in names:
        return
    if new or name == asked:
        say(f"{name} is a new channel of {target.name}")
        return
    nearest = difflib.get_close_matches(name, [*names, asked], n=1)
    found = (
        f"{target.name} has no channel {name}; it has: {', '.join(names) or 'none'}; "
        f"nodes of this image ask for {asked}"
    )
    if not confirmed(f"{found}\nMake a new channel {name}?"):
        guess = f"did you mean {nearest[0]}? " if nearest else ""
        raise UserError(found, f"{guess}to make a new one: --new")


def channel_names(target: Target) -> list[str]:
    """The names of all channel files."""
    names = (name for name in target.sizes() if name.startswith(CHANNELS))
    return sorted(name.removeprefix(CHANNELS) for name in names)


def current_channel(target: Target, name: str, keys: list[PublicKey]) -> Channel | None:
    """What a channel says there now. Raises UserError where it can't be trusted."""
    if name not in channel_names(target):
        return None
    try:
        return open_channel(target.get(f"{CHANNELS}{name}"), keys, name)[0]
    except UpdateError as error:
        raise UserError(
            f"{target.name}: {error}", f"remove {CHANNELS}{name} there to publish it anew"
        ) from None


def move_channel(
    channel: Channel, before: Channel | None, days: int, target: Target, sign: Sign
) -> Channel:
    """Let a channel point to a release that the target has, for some days from now on.

    Nodes take no channel that is signed earlier than one they saw, so it never is.
    """
    signed = max(int(time.time()), before.signed + 1 if before else 0)
    channel = replace(channel, signed=signed, expires=signed + days * DAY_S)
    with tempfile.NamedTemporaryFile() as file:
        file.write(channel_file(channel, sign))
        file.flush()
        target.put(Path(file.name), f"{CHANNELS}{channel.channel}")
    return channel


def check_public(
    source: Source, manifest: Manifest, keys: list[PublicKey], progress: Progress
) -> None:
    """Fetch and verify a release as a node without any of it would. Raises UserError."""
    folder = f"releases/{manifest.version}"
    try:
        data = source.get(f"{folder}/manifest.json", MANIFEST_SIZE_MAX)
        signature = source.get(f"{folder}/manifest.json.minisig", SIGNATURE_SIZE_MAX)
        assert data is not None and signature is not None
        found = open_manifest(data[0], signature[0], keys, f"release {manifest.version}")
    except UpdateError as error:
        raise UserError(f"nodes could not take it: {error}") from None
    if found != manifest:
        raise UserError(f"{source.name} has another release {manifest.version} than this one")
    verify_release(source, manifest, progress)


def verify_release(source: Source, manifest: Manifest, progress: Progress) -> None:
    """Read all blobs of a release and compare them with what is signed. Raises UserError."""
    try:
        whole = hashlib.sha256()
        for at, data in enumerate(_chunks(source, manifest)):
            digest = hashlib.sha256(data).hexdigest()
            if digest != manifest.slot.chunks[at].sha256:
                raise UserError(f"release {manifest.version}: chunk {at} is corrupt")
            whole.update(data)
            progress.started("verify", f"chunk {at + 1} of {len(manifest.slot.chunks)}")
        if whole.hexdigest() != manifest.slot.sha256:
            raise UserError(f"release {manifest.version}: the slot image is not what is signed")
        deltas = {f"delta from {delta.version}": delta.blob for delta in manifest.slot.deltas}
        for name, blob in {**deltas, **manifest.files}.items():
            _verify_blob(source, name, blob, progress)
    except UpdateError as error:
        raise UserError(f"release {manifest.version}: {error}") from None
    progress.stopped("verify")


def _chunks(source: Source, manifest: Manifest) -> Iterator[bytes]:
    """The unpacked chunks, which come in one piece as they lie one after the other."""
    slot = manifest.slot
    pieces = source.stream(f"blobs/{slot.blob.sha256}", 0, slot.blob.size)
    for at, packed in enumerate(cut(pieces, [chunk.size for chunk in slot.chunks])):
        yield unpacked(packed, slot.chunk_size(at))


def _verify_blob(source: Source, name: str, blob: Blob, progress: Progress) -> None:
    digest = hashlib.sha256()
    for piece in source.stream(f"blobs/{blob.sha256}", 0, blob.size):
        digest.update(piece)
    progress.started("verify", name)
    if digest.hexdigest() != blob.sha256:
        raise UserError(f"{name} (blobs/{blob.sha256}) is corrupt")
