"""Makes packages again out of an installed system.

apk's database says of each package which files it has, with their owners, modes and hashes. The
system of the wheel was configured after installation, so some files differ from what their package
brought; `RESTORED` undoes that. What still differs is an error: every file fits its recorded hash.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import tarfile

from builder.alpine.apk_database import InstalledPackage, read_database
from builder.alpine.apk_writer import Draft, Entry
from builder.core.errors import UserError
from builder.sample.wheel import System


def _without_users(data: bytes) -> bytes:
    lines = data.decode().splitlines(keepends=True)
    return "".join(x for x in lines if not x.startswith(("dhcpcd:", "quicksand:"))).encode()


def _rc_conf(data: bytes) -> bytes:
    text = data.decode()
    for setting in ('rc_parallel="NO"', 'rc_sys=""', 'rc_controller_cgroups="YES"'):
        name = setting.split("=")[0]
        text = re.sub(rf"^#?{name}=.*$", f"#{setting}", text, flags=re.MULTILINE)
    return text.encode()


RESTORED = {
    "etc/group": _without_users,
    "etc/passwd": _without_users,
    "etc/shadow": lambda data: _without_users(data).replace(b"root:*:", b"root::"),
    "etc/hostname": lambda _: b"localhost\n",
    "etc/hosts": lambda _: (
        b"127.0.0.1\tlocalhost localhost.localdomain\n::1\t\tlocalhost localhost.localdomain\n"
    ),
    "etc/modules": lambda _: b"af_packet\nipv6\n",
    "etc/mtab": lambda _: b"../proc/mounts",
    "etc/rc.conf": _rc_conf,
}
SYMLINKS = {"etc/mtab"}  # made into plain files by the configuration


def rebuild(system: System) -> list[Draft]:
    """Every package of the system. Raises UserError where a file is not what its package had."""
    database = system.read("lib/apk/db/installed").decode()
    triggers = dict(
        line.split(" ", 1) for line in system.read("lib/apk/db/triggers").decode().splitlines()
    )
    scripts = _scripts(system.read("lib/apk/db/scripts.tar.gz"))
    return [
        Draft(
            {
                letter: value
                for letter, value in package.fields.items()
                if letter not in "CS"  # of the package as Alpine packed it; ours is packed anew
            },
            _entries(package, system),
            scripts.get(package.fields["C"], {}),
            triggers.get(package.fields["C"], ""),
        )
        for package in read_database(database)
    ]


def _scripts(archive: bytes) -> dict[str, dict[str, bytes]]:
    """By the checksum of their package, then by their name such as `post-install`."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        for member in members:
            match = re.search(r"\.X1([0-9a-f]{40})\.([a-z-]+)$", member.name)
            reader = members.extractfile(member)
            if match and reader:
                checksum = "Q1" + base64.b64encode(bytes.fromhex(match[1])).decode()
                found.setdefault(checksum, {})[match[2]] = reader.read()
    return found


def _entries(package: InstalledPackage, system: System) -> list[Entry]:
    entries = []
    for file in package.files:
        if file.is_dir:
            if file.path:
                entries.append(Entry(file.path, file.mode, uid=file.uid, gid=file.gid))
            continue
        data = RESTORED.get(file.path, bytes)(system.read(file.path))
        checksum = "Q1" + base64.b64encode(hashlib.sha1(data).digest()).decode()
        if checksum != file.checksum:
            raise UserError(
                f"sample mirror: {file.path} of {package.fields['P']}: got {checksum}, wanted "
                f"{file.checksum}",
                "the PyPI package is not the one that Belay was made for",
            )
        if file.path in SYMLINKS or system.files[file.path].is_link:
            entries.append(Entry(file.path, 0o777, target=data.decode()))
        else:
            entries.append(Entry(file.path, file.mode, data, uid=file.uid, gid=file.gid))
    return entries
