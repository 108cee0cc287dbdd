"""Alpine's package and index formats, as far as the host needs them.

Format: https://wiki.alpinelinux.org/wiki/Apk_spec (v2). A package is three gzip streams one
after the other: signature, control, data. The real `apk` in the container checks and installs
packages; this module checks what is needed to fetch them, and to unpack the first `apk` on a
machine that has none.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.core.errors import UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa


@dataclass(frozen=True)
class Package:
    """One entry of an APKINDEX: `size` in bytes, `checksum` as `C:` spells it."""

    name: str
    version: str
    size: int
    checksum: str
    folder: str  # of the mirror, such as v3.23/main/x86_64

    @property
    def file_name(self) -> str:
        """What the package is called on a mirror."""
        return f"{self.name}-{self.version}.apk"

    @property
    def path(self) -> str:
        """Where a mirror has it."""
        return f"{self.folder}/{self.file_name}"


PKGINFO = {  # letters of the index and what .PKGINFO calls them; those in LISTS repeat per word
    "P": "pkgname", "V": "pkgver", "T": "pkgdesc", "U": "url", "t": "builddate", "I": "size",
    "A": "arch", "o": "origin", "c": "commit", "m": "maintainer", "L": "license",
    "q": "replaces_priority", "k": "provider_priority",
    "D": "depend", "p": "provides", "r": "replaces", "i": "install_if",
}  # fmt: skip
LISTS = "Dpri"
V3_MAGIC = b"ADB"  # what indexes and packages of apk-tools' format v3 begin with
PIECE = 1 << 20
# Bounds of what is unpacked before anybody has signed it. Alpine's largest index has 20 MiB, the
# control part of a package some KiB, and its largest package less than 2 GiB.
INDEX = "APKINDEX.tar.gz"  # what a repository lists its packages in
INDEX_MAX = 256 << 20
CONTROL_MAX = 16 << 20
CONTENT_MAX = 4 << 30

Streams = list[tuple[bytes, bytes]]


def gzip_streams(data: bytes, most: int = 3, content_max: int = CONTENT_MAX) -> Streams:
    """Split `data` into its gzip streams: for each its raw bytes and its content.

    ValueError where it is no gzip, has more than `most` streams, or unpacks to more than
    `content_max` bytes: what is read here may be signed by nobody.
    """
    streams: Streams = []
    at = unpacked = 0
    while at < len(data):
        if len(streams) == most:
            raise ValueError(f"has more than {most} streams")
        end, content = _unpacked(data, at, content_max - unpacked)
        streams.append((data[at:end], content))
        unpacked += len(content)
        at = end
    return streams


def _unpacked(data: bytes, at: int, most: int) -> tuple[int, bytes]:
    """The gzip stream that begins at byte `at`: where it ends, and its content."""
    if data[at : at + len(V3_MAGIC)] == V3_MAGIC:
        raise ValueError("is of format v3, and this Belay reads v2")
    engine = zlib.decompressobj(wbits=31)
    pieces, size = [], 0
    view = memoryview(data)
    try:
        while not engine.eof:
            packed = engine.unconsumed_tail or view[at : at + PIECE]
            at += 0 if engine.unconsumed_tail else len(packed)
            piece = engine.decompress(packed, PIECE)
            size += len(piece)
            if size > most:
                raise ValueError(f"unpacks to more than {most >> 20} MiB")
            if not packed and not engine.eof:
                raise ValueError("the gzip stream ends too early")
            pieces.append(piece)
    except zlib.error as error:
        raise ValueError(f"not a gzip stream: {error}") from None
    return at - len(engine.unused_data), b"".join(pieces)


def read_index(data: bytes, folder: str) -> list[Package]:
    """The packages of an APKINDEX.tar.gz, which must have been verified before.

    `folder` is where the index lies on its mirror, such as v3.23/main/x86_64.
    """
    _, (_, content) = gzip_streams(data)
    with tarfile.open(fileobj=io.BytesIO(content), ignore_zeros=True) as archive:
        text = text_of(_member(archive, archive.getmember("APKINDEX")))
    packages = []
    for entry in text.split("\n\n"):
        if entry.strip("\n"):
            fields = dict(line.split(":", 1) for line in lines_of(entry))
            packages.append(
                Package(fields["P"], fields["V"], int(fields["S"]), fields["C"], folder)
            )
    return packages


def text_of(data: bytes) -> str:
    """Alpine's text files: UTF-8, but where a name isn't; nothing of it is lost."""
    return data.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """What `text_of` read, as it was."""
    return text.encode("utf-8", "surrogateescape")


def lines_of(text: str) -> list[str]:
    """The lines of such a file that aren't empty. They end with \\n and with nothing else."""
    return [line for line in text.split("\n") if line]


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    reader = archive.extractfile(member)
    assert reader is not None, member.name
    return reader.read()


def verify_index(data: bytes, keys: Path, what: str) -> None:
    """Check an index: two streams, the first of which signs the second by a key in `keys`."""
    try:
        streams = gzip_streams(data, content_max=INDEX_MAX)
    except ValueError as error:
        raise UserError(f"{what}: {error}", "it is damaged, or it is no index") from None
    if len(streams) != 2:  # a third would be content that nobody signed
        raise UserError(
            f"{what}: is not signed as a whole", f"wanted a signature by one of the keys in {keys}"
        )
    verify_signature(streams[0][1], streams[1][0], keys, what)


def verify_signature(signatures: bytes, signed: bytes, keys: Path, what: str) -> None:
    """Check that a tar of signatures has a right one by a key in `keys`. Raises UserError."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    found = []
    try:
        with tarfile.open(fileobj=io.BytesIO(signatures), ignore_zeros=True) as archive:
            for member in archive:
                match = re.fullmatch(r"\.SIGN\.(RSA|RSA256)\.([^/\0]+)", member.name)
                if not match:
                    continue
                found.append(match[2])
                if not (keys / match[2]).is_file():
                    continue
                key = _public_key(keys / match[2])
                # Alpine's own name for the two digests; with SHA-1 its index is still signed.
                digest = hashes.SHA256() if match[1] == "RSA256" else hashes.SHA1()
                signature = _member(archive, member)
                try:
                    key.verify(signature, signed, padding.PKCS1v15(), digest)
                    return
                except InvalidSignature:
                    raise UserError(f"{what}: its signature by {match[2]} is wrong") from None
    except tarfile.TarError:
        raise UserError(f"{what}: its first stream holds no signature", "it is damaged") from None
    by = f"it is signed by {', '.join(found)}" if found else "it is not signed"
    names = ", ".join(sorted(path.name for path in keys.glob("*.pub"))) or "there are none"
    raise UserError(
        f"{what}: is not signed by any of the keys that count there ({names})",
        f"{by}. Name its key "
        "in image.toml: a file with that very name in keys of [alpine], or key of its repository",
    )


def _public_key(path: Path) -> rsa.RSAPublicKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except ValueError:
        key = None
    if not isinstance(key, rsa.RSAPublicKey):
        raise UserError(f"{path.name}: is no public RSA key in PEM, as abuild-keygen makes one")
    return key


def verify_package(data: bytes, package: Package, what: str) -> None:
    """Check a package against its entry in a verified index. Raises UserError.

    Its files are hashed as they are packed: what isn't signed is never unpacked.
    """
    if len(data) != package.size:
        raise UserError(
            f"{what}: has {len(data)} bytes, wanted {package.size}: the mirror is in the middle of "
            "an update, or the file was cut off",
            "try again later, or another mirror",
        )
    try:
        at, _ = _unpacked(data, 0, CONTROL_MAX)
        end, control = _unpacked(data, at, CONTROL_MAX)
    except ValueError as error:
        raise UserError(f"{what}: {error}", "it is damaged: try again, or another mirror") from None
    if control_checksum(data[at:end]) != package.checksum:
        raise UserError(f"{what}: is not the package that the index names")
    wanted = re.search(r"^datahash = (\w+)$", _package_info(control), re.MULTILINE)
    if not wanted or hashlib.sha256(data[end:]).hexdigest() != wanted[1]:
        raise UserError(f"{what}: its files are not those that it was signed with")


def verify_signed(data: bytes, keys: Path, what: str) -> None:
    """Check that a package, verified otherwise, is signed by one of `keys`. Raises UserError."""
    at, signatures = _unpacked(data, 0, CONTROL_MAX)
    end, _ = _unpacked(data, at, CONTROL_MAX)
    verify_signature(signatures, data[at:end], keys, what)


def package_files(data: bytes) -> bytes:
    """The files of a verified package, as a tar."""
    return gzip_streams(data)[2][1]


def _package_info(control: bytes) -> str:
    with tarfile.open(fileobj=io.BytesIO(control), ignore_zeros=True) as archive:
        return text_of(_member(archive, archive.getmember(".PKGINFO")))


def control_checksum(control: bytes) -> str:
    """The identity of a package, as in `C:` of an index: SHA-1 of its control stream."""
    return "Q1" + base64.b64encode(hashlib.sha1(control).digest()).decode()


def installed_record(data: bytes) -> str:
    """What apk's database says of a package once it is installed, but for its files."""
    at, _ = _unpacked(data, 0, CONTROL_MAX)
    end, control = _unpacked(data, at, CONTROL_MAX)
    values: dict[str, list[str]] = {}
    for line in lines_of(_package_info(control)):
        name, equals, value = line.partition(" = ")
        if equals:
            values.setdefault(name, []).append(value)
    lines = [f"C:{control_checksum(data[at:end])}"]
    lines += [
        f"{letter}:{' '.join(values[name])}" for letter, name in PKGINFO.items() if name in values
    ]
    return "\n".join(lines) + "\n\n"
