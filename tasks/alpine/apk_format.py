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

from tasks.core.errors import UserError


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


def gzip_streams(data: bytes) -> list[tuple[bytes, bytes]]:
    """Split `data` into its gzip streams: for each its raw bytes and its content."""
    streams = []
    while data:
        engine = zlib.decompressobj(wbits=31)
        try:
            content = engine.decompress(data)
        except zlib.error as error:
            raise ValueError(f"not a gzip stream: {error}") from None
        if not engine.eof:
            raise ValueError("the gzip stream ends too early")
        raw = data[: len(data) - len(engine.unused_data)]
        streams.append((raw, content))
        data = engine.unused_data
    return streams


def read_index(data: bytes, folder: str) -> list[Package]:
    """The packages of an APKINDEX.tar.gz, which must have been verified before.

    `folder` is where the index lies on its mirror, such as v3.23/main/x86_64.
    """
    _, (_, content) = gzip_streams(data)
    with tarfile.open(fileobj=io.BytesIO(content), ignore_zeros=True) as archive:
        text = _member(archive, archive.getmember("APKINDEX")).decode()
    packages = []
    for entry in text.split("\n\n"):
        if entry.strip():
            fields = dict(line.split(":", 1) for line in entry.splitlines() if line)
            packages.append(
                Package(fields["P"], fields["V"], int(fields["S"]), fields["C"], folder)
            )
    return packages


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    reader = archive.extractfile(member)
    assert reader is not None, member.name
    return reader.read()


def verify_index(data: bytes, keys: Path, what: str) -> None:
    """Check an index: two streams, the first of which signs the second by a key in `keys`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    try:
        streams = gzip_streams(data)
    except ValueError as error:
        raise UserError(f"{what}: {error}; it is damaged, or it is no index") from None
    if len(streams) != 2:  # a third would be content that nobody signed
        raise UserError(
            f"{what}: is not signed as a whole; wanted a signature by one of the keys in {keys}"
        )
    with tarfile.open(fileobj=io.BytesIO(streams[0][1]), ignore_zeros=True) as archive:
        for member in archive:
            match = re.fullmatch(r"\.SIGN\.(RSA|RSA256)\.([\w@.-]+)", member.name)
            if not match or not (keys / match[2]).is_file():
                continue
            key = serialization.load_pem_public_key((keys / match[2]).read_bytes())
            assert isinstance(key, rsa.RSAPublicKey)
            # Alpine's own name for the two digests; SHA-1 is what its index is still signed with.
            digest = hashes.SHA256() if match[1] == "RSA256" else hashes.SHA1()
            try:
                key.verify(_member(archive, member), streams[1][0], padding.PKCS1v15(), digest)
                return
            except InvalidSignature:
                raise UserError(f"{what}: its signature by {match[2]} is wrong") from None
    raise UserError(f"{what}: is not signed by any of the keys in {keys}")


def verify_package(data: bytes, package: Package, what: str) -> bytes:
    """Check a package against its entry in a verified index; return its files as a tar."""
    if len(data) != package.size:
        raise UserError(f"{what}: has {len(data)} bytes, wanted {package.size}; try again")
    try:
        streams = gzip_streams(data)
    except ValueError as error:
        raise UserError(f"{what}: {error}; it is damaged: try again, or another mirror") from None
    if len(streams) < 3:
        raise UserError(f"{what}: has {len(streams)} streams, wanted 3; it is cut short")
    control, content = streams[1], streams[2]
    if control_checksum(control[0]) != package.checksum:
        raise UserError(f"{what}: is not the package that the index names")
    with tarfile.open(fileobj=io.BytesIO(control[1]), ignore_zeros=True) as archive:
        info = _member(archive, archive.getmember(".PKGINFO")).decode()
    wanted = re.search(r"^datahash = (\w+)$", info, re.MULTILINE)
    if not wanted or hashlib.sha256(content[0]).hexdigest() != wanted[1]:
        raise UserError(f"{what}: its files are not those that it was signed with")
    return content[1]


def control_checksum(control: bytes) -> str:
    """The identity of a package, as in `C:` of an index: SHA-1 of its control stream."""
    return "Q1" + base64.b64encode(hashlib.sha1(control).digest()).decode()


def installed_record(data: bytes) -> str:
    """What apk's database says of a package once it is installed, but for its files."""
    control = gzip_streams(data)[1]
    with tarfile.open(fileobj=io.BytesIO(control[1]), ignore_zeros=True) as archive:
        info = _member(archive, archive.getmember(".PKGINFO")).decode()
    values: dict[str, list[str]] = {}
    for line in info.splitlines():
        name, equals, value = line.partition(" = ")
        if equals:
            values.setdefault(name, []).append(value)
    lines = [f"C:{control_checksum(control[0])}"]
    lines += [
        f"{letter}:{' '.join(values[name])}" for letter, name in PKGINFO.items() if name in values
    ]
    return "\n".join(lines) + "\n\n"
