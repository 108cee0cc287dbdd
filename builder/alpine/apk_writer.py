"""Writes Alpine packages and indexes: for the sample mirror, and for offline packages.

Format: https://wiki.alpinelinux.org/wiki/Apk_spec (v2); read by `apk_format.py`.
"""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from builder.alpine.apk_format import LISTS, PKGINFO, bytes_of, control_checksum
from builder.core.arch import X86_64

BUILD_DATE = "1767225600"  # 2026-01-01, that the same files give the same package
STORED_BLOCK_MAX = 65535  # the longest stored block of deflate (RFC 1951, 3.2.4)


@dataclass(frozen=True)
class Entry:
    """One file, directory or link of a package to be written."""

    path: str
    mode: int
    data: bytes | None = None  # None: a directory
    target: str | None = None  # of a symlink
    uid: int = 0
    gid: int = 0
    user: str = "root"  # names count more than numbers, where the system has them
    group: str = "root"
    twin: str | None = None  # of a hard link: the file that it is another name of
    device: tuple[int, int] | None = None  # of a character device
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


def stored_gzip(data: bytes) -> bytes:
    """`data` as one gzip stream of stored blocks: the same bytes whatever zlib the host has."""
    parts = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff"]
    for start in range(0, max(len(data), 1), STORED_BLOCK_MAX):
        block = data[start : start + STORED_BLOCK_MAX]
        last = start + STORED_BLOCK_MAX >= len(data)
        parts += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    parts.append(struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF))
    return b"".join(parts)


def tar_of(entries: Iterable[Entry], *, end: bool, checksums: bool, mtime: int = 0) -> bytes:
    """A tar, as apk wants one: `checksums` adds the SHA-1 of each file, `end` the end mark."""
    buffer = io.BytesIO()
    for entry in entries:
        info = tarfile.TarInfo(entry.path)
        info.mode, info.mtime, info.uid, info.gid = entry.mode, mtime, entry.uid, entry.gid
        info.uname, info.gname = entry.user, entry.group
        content = entry.data or b""
        if entry.target is not None:
            info.type, info.linkname, content = tarfile.SYMTYPE, entry.target, b""
        elif entry.device:
            info.type, (info.devmajor, info.devminor) = tarfile.CHRTYPE, entry.device
        elif entry.twin is not None:
            info.type, info.linkname = tarfile.LNKTYPE, entry.twin
        elif entry.data is None:
            info.type = tarfile.DIRTYPE
        else:
            info.size = len(content)
        headers = {
            f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
            for name, value in entry.xattrs.items()
        }
        if checksums and info.type != tarfile.DIRTYPE:
            hashed = content if entry.target is None else entry.target.encode()
            headers["APK-TOOLS.checksum.SHA1"] = hashlib.sha1(hashed).hexdigest()
        info.pax_headers = headers
        buffer.write(info.tobuf(tarfile.PAX_FORMAT))
        buffer.write(content + b"\0" * (-len(content) % tarfile.BLOCKSIZE))
    if end:
        buffer.write(b"\0" * 2 * tarfile.BLOCKSIZE)
    return buffer.getvalue()


@dataclass(frozen=True)
class SigningKey:
    """An RSA key and the file name of its public half, which signatures carry."""

    name: str
    private: rsa.RSAPrivateKey

    @property
    def public(self) -> bytes:
        """The public half, as /etc/apk/keys has it."""
        pem, info = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(pem, info)

    def signature(self, stream: bytes) -> bytes:
        """The signature stream that goes before `stream`."""
        signature = self.private.sign(stream, padding.PKCS1v15(), hashes.SHA256())
        entry = Entry(f".SIGN.RSA256.{self.name}", 0o644, signature)
        return stored_gzip(tar_of([entry], end=False, checksums=False))


@dataclass(frozen=True)
class Draft:
    """A package before it is written: its `fields` by the letters of the index."""

    fields: Mapping[str, str]
    entries: Sequence[Entry]
    scripts: Mapping[str, bytes] = field(default_factory=dict)  # named like post-install
    triggers: str = ""  # the folders that its trigger script watches


def draft(
    name: str,
    version: str,
    about: str,
    entries: Iterable[Entry],
    scripts: Mapping[str, bytes] | None = None,
    **fields: str,
) -> Draft:
    """A package with these files and the folders above them; `fields` by letter."""
    files = sorted(entries, key=lambda entry: (entry.twin is not None, entry.path))
    paths = {entry.path for entry in files}
    parents = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    known = {"P": name, "V": version, "A": X86_64.name, "T": about, "o": name, "t": BUILD_DATE}
    # apk unpacks nothing of no size.
    known["I"] = str(max(1, sum(len(entry.data or b"") for entry in files)))
    folders = [Entry(path, 0o755) for path in sorted(parents - paths - {"."})]
    return Draft({**known, **fields}, [*folders, *files], scripts or {})


def write_package(draft: Draft, key: SigningKey) -> tuple[bytes, dict[str, str]]:
    """A signed package, and its entry for the index."""
    build_date = int(draft.fields["t"])
    content = stored_gzip(tar_of(draft.entries, end=True, checksums=True, mtime=build_date))
    lines = []
    for letter, name in PKGINFO.items():
        value = draft.fields.get(letter, "")
        for item in value.split() if letter in LISTS else [value] if value else []:
            lines.append(f"{name} = {item}")
    if draft.triggers:
        lines.append(f"triggers = {draft.triggers}")
    lines.append(f"datahash = {hashlib.sha256(content).hexdigest()}")
    members = [Entry(".PKGINFO", 0o644, bytes_of("\n".join(lines) + "\n"))]
    members += [Entry(f".{name}", 0o755, draft.scripts[name]) for name in sorted(draft.scripts)]
    control = stored_gzip(tar_of(members, end=False, checksums=False))
    package = key.signature(control) + control + content
    fields = {**draft.fields, "C": control_checksum(control), "S": str(len(package))}
    return package, fields


def write_index(packages: Iterable[Mapping[str, str]], key: SigningKey, about: str) -> bytes:
    """A signed APKINDEX.tar.gz; `about` is its description."""
    text = "".join(
        "".join(f"{letter}:{value}\n" for letter, value in fields.items() if value) + "\n"
        for fields in packages
    )
    members = [
        Entry("DESCRIPTION", 0o644, about.encode() + b"\n"),
        Entry("APKINDEX", 0o644, bytes_of(text)),
    ]
    stream = stored_gzip(tar_of(members, end=True, checksums=False))
    return key.signature(stream) + stream
