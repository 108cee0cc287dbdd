"""Packages like those of Alpine's kernel for real machines: as many files, of the same kinds.

`linux-lts` has the modules and the kernel of a given `linux-virt`, so that it boots, and thousands
more; `linux-firmware` comes in a package for each maker, and `linux-firmware-none` in its place.
All of it is made from a seed. Of every file of firmware is known who asks for it, so that what a
build chooses can be compared name by name.
"""

from __future__ import annotations

import gzip
import io
import lzma
import random
import re
import struct
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.alpine.apk_format import gzip_streams
from builder.alpine.apk_writer import Draft, Entry, draft
from builder.core.files import read_text
from builder.core.paths import PROJECT
from builder.sample.mirror import sample_mirror

VERSION = "6.18.56-r0"
FIRMWARE_VERSION = "20261001-r0"
FOLDERS = (
    "drivers/net/wireless", "drivers/net/ethernet", "drivers/gpu/drm", "drivers/media/usb",
    "drivers/iio", "drivers/hid", "drivers/hwmon", "drivers/input", "drivers/usb", "drivers/scsi",
    "sound/soc", "sound/pci", "drivers/staging", "crypto", "fs", "net/netfilter",
)  # fmt: skip
MAKERS = tuple(f"maker{number:02}" for number in range(40))
PATTERNS = 20  # of names that modules ask for
ALWAYS = "regulatory.db"  # what the kernel asks for by itself
NOWHERE = 150  # names that modules ask for and nobody has
ZSTD_MAGIC = 0xFD2FB528
ZSTD_BLOCK_MAX = 128 * 1024
DEPMOD = b'#!/bin/sh\nexec depmod "$(ls /lib/modules)"\n'


@dataclass(frozen=True)
class Shape:
    """How many files there are, and bytes of a module and of a file of firmware on average."""

    modules: int = 4216
    firmware: int = 3288
    links: int = 2794
    module_bytes: int = 0
    firmware_bytes: int = 64


@dataclass(frozen=True)
class Firmware:
    """A file below lib/firmware, or a link to `target`; what `asks` names needs it."""

    path: str
    asks: frozenset[str] = frozenset()
    target: str = ""


@dataclass
class Kernel:
    """The packages, and what is known of them.

    `asked` and `needs` say for each module beyond those of linux-virt which firmware it names and
    which modules it needs.
    """

    drafts: list[Draft] = field(default_factory=list)
    firmware: list[Firmware] = field(default_factory=list)
    asked: dict[str, list[str]] = field(default_factory=dict)
    needs: dict[str, list[str]] = field(default_factory=dict)

    def with_needs(self, modules: Iterable[str]) -> set[str]:
        """Of these modules those that are here, with all that they need."""
        found: set[str] = set()
        queue = [name for name in modules if name in self.needs]
        while queue:
            if (name := queue.pop()) not in found:
                found.add(name)
                queue += self.needs[name]
        return found

    def asked_by(self, modules: Iterable[str]) -> set[str]:
        """What these modules ask for, and the kernel itself."""
        return {ALWAYS} | {name for module in modules for name in self.asked[module]}

    def firmware_for(self, asks: set[str]) -> dict[str, str]:
        """The paths below lib/firmware that this takes, and where links lead."""
        return {file.path: file.target for file in self.firmware if file.asks & asks}


def virt_package() -> Path:
    """The package linux-virt of the sample."""
    (found,) = sample_mirror("3.23").glob("v3.23/main/x86_64/linux-virt-[0-9]*.apk")
    return found


def real_kernel(virt: Path, shape: Shape, seed: int = 7) -> Kernel:
    """The kernel; `virt` is the package linux-virt that it is made of."""
    dice = random.Random(seed)
    kernel = Kernel(firmware=_firmware(dice, shape))
    asks = sorted(
        {ask for file in kernel.firmware for ask in file.asks} - {"always", "intel/ibt-*"}
    )
    asks += [f"nobody/has-{number}.bin" for number in range(NOWHERE)]
    dice.shuffle(asks)
    kernel.drafts.append(_linux(virt, shape, kernel, asks, dice))

    by_package: dict[str, list[Entry]] = {}
    for file in kernel.firmware:
        maker = file.path.split("/")[0] if "/" in file.path else "other"
        entry = Entry(f"lib/firmware/{file.path}", 0o777, target=file.target or None)
        if not file.target:
            data = dice.randbytes(max(1, int(dice.expovariate(1 / shape.firmware_bytes))))
            entry = Entry(entry.path, 0o644, _packed(file.path, data))
        by_package.setdefault(f"linux-firmware-{maker}", []).append(entry)
    provided = f"linux-firmware-any={FIRMWARE_VERSION}"
    kernel.drafts += [
        *(draft(name, FIRMWARE_VERSION, "firmware", some) for name, some in by_package.items()),
        draft("linux-firmware", FIRMWARE_VERSION, "all of it", [],
              D=" ".join(by_package), p=provided, k="100"),
        draft("linux-firmware-none", FIRMWARE_VERSION, "none of it", [], p=provided, k="1"),
        *(
            draft(f"{name}-ucode", "20261001-r0", "microcode",
                  [Entry(f"boot/{name}-ucode.img", 0o644, microcode(f"{maker}.bin", dice))])
            for name, maker in (("amd", "AuthenticAMD"), ("intel", "GenuineIntel"))
        ),
    ]  # fmt: skip
    return kernel


def _linux(
    virt: Path, shape: Shape, kernel: Kernel, asks: Sequence[str], dice: random.Random
) -> Draft:
    """linux-lts; the modules that it has beyond those of linux-virt are noted in `kernel.asked`."""
    entries = []
    *_, (_, content) = gzip_streams(virt.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            if reader := tar.extractfile(member) if member.isreg() else None:
                path = member.name.replace("vmlinuz-virt", "vmlinuz-lts")
                entries.append(Entry(path, 0o644, reader.read()))
    paths = [entry.path for entry in entries if entry.path.startswith("lib/modules/")]
    (version,) = {path.split("/")[2] for path in paths}
    known = {_plain(path) for path in paths if ".ko" in path}
    listed = [
        name.replace("-", "_") for name in pc_modules() if name.replace("-", "_") not in known
    ]
    names = [*listed, *(f"driver_{number:04}" for number in range(shape.modules))]
    for number, name in enumerate(names[: shape.modules - len(known)]):
        kernel.asked[name] = list(asks[number :: shape.modules - len(known)])
        needs = [dice.choice(names[:number])] if number and dice.random() < 0.4 else []
        kernel.needs[name] = needs
        path = f"lib/modules/{version}/kernel/{dice.choice(FOLDERS)}/{name}.ko.gz"
        data = module(name, kernel.asked[name], needs, _filler(shape.module_bytes, dice))
        data = gzip.compress(data, 1, mtime=0)
        entries.append(Entry(path, 0o644, data))
    needs_packages = "kmod linux-firmware-any"
    script = {"post-install": DEPMOD}
    return draft("linux-lts", VERSION, "the kernel", entries, script, D=needs_packages)


def pc_modules() -> list[str]:
    """The names in modloop/pc."""
    text = read_text(PROJECT / "modloop" / "pc")
    return [word for line in text.splitlines() for word in line.split("#")[0].split()]


def _plain(path: str) -> str:
    return re.sub(r"\.ko.*", "", path.rpartition("/")[2]).replace("-", "_")


def module(name: str, firmware: Sequence[str], needs: Sequence[str], more: bytes = b"") -> bytes:
    """A module as depmod and modinfo see it: what it says of itself, and its symbols.

    Each exports one symbol, and needs those of the modules that it `needs`.
    Format: https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.sheader.html
    """
    info = [f"name={name}", "license=GPL", *(f"firmware={path}" for path in firmware)]
    strings = b"\0" + b"".join(f"{need}_symbol\0".encode() for need in needs)
    symbols = bytes(24)
    for need in needs:  # undefined here, and global
        symbols += struct.pack("<IBBHQQ", strings.index(f"{need}_symbol".encode()), 16, 0, 0, 0, 0)
    sections = (
        (".modinfo", 1, "".join(f"{text}\0" for text in info).encode()),
        ("__ksymtab_strings", 1, f"{name}_symbol\0".encode()),
        (".symtab", 2, symbols),
        (".strtab", 3, strings),
        (".text", 1, more),
    )
    names = b"\0" + b"".join(f"{section}\0".encode() for section, _, _ in sections) + b".shstrtab\0"
    body = bytearray(64)
    headers = [bytes(64)]
    for section, kind, data in (*sections, (".shstrtab", 3, names)):
        body += bytes(-len(body) % 8)
        offset = names.index(f"{section}\0".encode())
        link, size = (4, 24) if kind == 2 else (0, 0)  # the strings of symbols, and a symbol's size
        headers.append(
            struct.pack("<IIQQQQIIQQ", offset, kind, 0, 0, len(body), len(data), link, 1, 8, size)
        )
        body += data
    body += bytes(-len(body) % 8)
    counts = (64, 0, 0, 64, len(headers), len(headers) - 1)
    body[:64] = b"\x7fELF\2\1\1" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, len(body), 0, *counts
    )  # fmt: skip
    return bytes(body) + b"".join(headers)


def _filler(average: int, dice: random.Random) -> bytes:
    """Bytes that pack to about a quarter, as those of modules do; few are many, most are few."""
    size = int(dice.lognormvariate(-0.5, 1) * average)
    return b"".join(dice.randbytes(4096) * 4 for _ in range(size // 16384 + 1)) if average else b""


def _firmware(dice: random.Random, shape: Shape) -> list[Firmware]:
    """The files and links: as many as `shape` says; modules ask for some seven files in ten."""
    found = [
        Firmware("regulatory.db", frozenset({ALWAYS})),
        Firmware("regulatory.db.p7s", frozenset({ALWAYS})),
        # What no module names; image.toml may.
        *(Firmware(f"intel/ibt-{n:02}.sfi.zst", frozenset({"intel/ibt-*"})) for n in range(38)),
        # The newest that the kernel knows is not here yet.
        *(Firmware(f"iwlwifi-{n}-72.ucode.zst") for n in range(20)),
        *(Firmware(f"iwlwifi-{n}-83.ucode.zst", frozenset({f"iwlwifi-{n}-89.ucode"}))
          for n in range(20)),
    ]  # fmt: skip
    links = []
    for maker in MAKERS[:PATTERNS]:
        all_of, some = frozenset({f"{maker}/hw2.0/*"}), frozenset({f"{maker}/nvram*-[a-c]?.txt"})
        found += [
            *(Firmware(f"{maker}/hw2.0/board-{n}.bin.zst", all_of) for n in range(9)),
            Firmware(f"{maker}/hw2.0/deeper/board.bin.zst"),
            *(Firmware(f"{maker}/nvram {n}-b{n}.txt.zst", some) for n in range(3)),
            Firmware(f"{maker}/nvram-d1.txt.zst"),
        ]
        through_link = frozenset({f"{maker}/hw2.1/only.bin"})
        links.append(Firmware(f"{maker}/hw2.1", through_link, "hw3.0"))
        found.append(Firmware(f"{maker}/hw3.0/only.bin.zst", through_link))
    for number in range(shape.firmware - len(found)):
        maker, ending = dice.choice(MAKERS), dice.choice((".zst",) * 18 + (".xz", ""))
        name = f"{maker}/chip-{number}.bin"
        asks = {name} if dice.random() < 0.6 else set()
        # Other names: a link to it, and a link to that.
        if len(links) + 2 <= shape.links and dice.random() < 0.6:
            other, third = f"{maker}/board-{number}.bin", f"{maker}/board-{number}-b.bin"
            asked = {ask for ask in (other, third) if dice.random() < 0.3}
            target = dice.choice((f"chip-{number}.bin", f"../{name}", f"/lib/firmware/{name}"))
            second = f"board-{number}.bin{ending}"
            links += [
                Firmware(f"{other}{ending}", frozenset(asked), f"{target}{ending}"),
                Firmware(f"{third}{ending}", frozenset(asked - {other}), second),
            ]
            asks |= asked
        found.append(Firmware(f"{name}{ending}", frozenset(asks)))
    links += [
        Firmware(f"{dice.choice(MAKERS)}/more-{number}.bin.zst", target="chip-1.bin.zst")
        for number in range(shape.links - len(links))
    ]
    return [*found, *links]


def _packed(path: str, data: bytes) -> bytes:
    """A file's content as its ending says."""
    if path.endswith(".xz"):
        return lzma.compress(data, check=lzma.CHECK_CRC32)
    return stored_zstd(data) if path.endswith(".zst") else data


def stored_zstd(data: bytes) -> bytes:
    """`data` as a zstd frame of raw blocks.

    Format: RFC 8878, 3.1.1; a single segment whose size takes eight bytes.
    """
    parts = [struct.pack("<IBQ", ZSTD_MAGIC, 0xE0, len(data))]
    for start in range(0, max(len(data), 1), ZSTD_BLOCK_MAX):
        block = data[start : start + ZSTD_BLOCK_MAX]
        is_last = start + ZSTD_BLOCK_MAX >= len(data)
        parts += [struct.pack("<I", len(block) << 3 | is_last)[:3], block]
    return b"".join(parts)


def microcode(name: str, dice: random.Random) -> bytes:
    """A cpio with a file of microcode, as Alpine's packages have it: not compressed."""
    blob = dice.randbytes(4096)
    path = "kernel/x86/microcode"
    folders = ((folder, 0o40755, b"") for folder in ("kernel", "kernel/x86", path))
    files = (*folders, (f"{path}/{name}", 0o100644, blob), ("TRAILER!!!", 0, b""))
    return b"".join(_cpio(files))


def _cpio(files: Iterable[tuple[str, int, bytes]]) -> Iterator[bytes]:
    for number, (path, mode, data) in enumerate(files):
        name = f"{path}\0".encode()
        numbers = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % value for value in numbers) + name
        yield head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
