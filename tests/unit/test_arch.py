"""Facts of architectures have one home, and nothing else compares their names."""

from __future__ import annotations

import re
import struct
import typing
from pathlib import Path

import pytest

from builder.core.arch import AARCH64, ARCHES, X86_64, Arch, host_arch
from builder.core.config import ArchName, load_config
from builder.core.errors import UserError
from builder.core.paths import PROJECT
from builder.engines import emulation
from builder.engines.choose import candidates
from builder.engines.emulation import emulated, is_registered, refused
from builder.releases.make import store_of

# What holds for one architecture alone, and says so: it compares nothing.
EXEMPT = re.compile(
    r"(builder/(core/(arch|config)|sample/(wheel|python))|updater/contract)\.py|builder/benchmarks/.*"
)
NAMES = re.compile(
    r"x86_64|aarch64|amd64|arm64|i386-pc|BOOTX64|BOOTAA64|ttyAMA|OVMF|AAVMF|i6300esb"
)


def test_names_are_in_one_place() -> None:
    found = []
    for folder in ("builder", "tasks", "updater", "rootfs", "initramfs", "modloop"):
        for path in (PROJECT / folder).rglob("*"):
            name = path.relative_to(PROJECT).as_posix()
            if path.suffix not in (".py", ".sh") or EXEMPT.fullmatch(name):
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if NAMES.search(line) and not re.search(r"^\s*#|\"\"\"|such as|i386-pc", line):
                    found.append(f"{name}:{number}: {line.strip()}")
    assert not found


def test_only_the_frame_knows_of_grub_for_bios() -> None:
    with_bios = [
        path.name
        for path in (PROJECT / "builder").rglob("*")
        if path.suffix in (".py", ".sh") and "i386-pc" in path.read_text()
    ]
    assert sorted(with_bios) == ["frame.sh", "standins.py"]


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_consoles_follow_from_the_architecture(arch: Arch, tmp_path: Path) -> None:
    config = load_config(
        PROJECT / "image.toml", {"BELAY_ALPINE_ARCH": arch.name, "BELAY_BOOT_CMDLINE": "quiet"}
    )
    assert config.cmdline == f"console=tty0 console={arch.serial},115200 quiet"
    own = load_config(PROJECT / "image.toml", {"BELAY_BOOT_CMDLINE": "console=ttyS1 quiet"})
    assert own.cmdline == "console=ttyS1 quiet"


def test_an_architecture_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'found .riscv64., wanted "x86_64" or "aarch64"'):
        load_config(PROJECT / "image.toml", {"BELAY_ALPINE_ARCH": "riscv64"})


def test_all_are_known_to_the_config() -> None:
    assert typing.get_args(ArchName) == tuple(ARCHES)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('arch = "aarch64"', ["aarch64"]),
        ('arch = ["x86_64", "aarch64"]', ["x86_64", "aarch64"]),
        ('arch = ["aarch64"]', ["aarch64"]),
        ("", ["x86_64"]),
    ],
)
def test_releases_may_be_of_several(tmp_path: Path, text: str, names: list[str]) -> None:
    (tmp_path / "image.toml").write_text(f"[alpine]\n{text}\n")
    config = load_config(tmp_path / "image.toml", {})
    assert config.alpine.arch == names[0]
    each = config.each_arch()
    assert [one.alpine.arch for one in each] == names
    assert len({store_of(one).folder for one in each}) == len(names)
    one = load_config(tmp_path / "image.toml", {"BELAY_ALPINE_ARCH": "aarch64"})
    assert [each.alpine.arch for each in one.each_arch()] == ["aarch64"]


@pytest.mark.parametrize("text", ["[]", '["x86_64", "x86_64"]', '["x86_64", "riscv64"]', "5"])
def test_lists_that_make_no_sense(tmp_path: Path, text: str) -> None:
    (tmp_path / "image.toml").write_text(f"[alpine]\narch = {text}\n")
    with pytest.raises(UserError, match=r"image.toml:2: \[alpine\] arch: found .*, wanted"):
        load_config(tmp_path / "image.toml", {})


def test_another_machine_than_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(UserError, match="this machine is riscv64") as raised:
        host_arch()
    assert raised.value.hint == "build on one of: x86_64, aarch64"


def elf(arch: Arch, kind: int) -> bytes:
    ident = b"\x7fELF\x02\x01\x01\x03".ljust(16, b"\0")  # 3: for Linux
    return ident + struct.pack("<HH", kind, arch.elf_machine)


@pytest.mark.parametrize("kind", [2, 3], ids=["fixed", "anywhere"])
def test_the_rule_fits_programs_of_that_architecture_alone(
    kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulation, "is_registered", lambda arch: False)
    rule, *command = emulated("aarch64", ("/bin/true", "x"))[3:]
    assert command == ["/bin/true", "x"]
    _, name, how, offset, magic, mask, interpreter, flags = rule.split(":")
    assert (name, how, offset, flags) == ("belay", "M", "", "PF")
    assert interpreter == "/usr/bin/qemu-aarch64"
    wanted, bits = (bytes.fromhex(text.replace("\\x", "")) for text in (magic, mask))
    for arch in ARCHES.values():
        program = elf(arch, kind)
        fits = all(p & b == w & b for p, w, b in zip(program, wanted, bits, strict=True))
        assert fits == (arch == AARCH64)


def test_programs_of_this_machine_need_no_emulator() -> None:
    assert emulated("", ("/bin/true",)) == ("/bin/true",)


ENTRY = """\
enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: {flags}
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (ENTRY.format(flags="POCF"), True),
        (ENTRY.format(flags="POC"), False),  # the emulator is looked for in each container
        (ENTRY.format(flags="POCF").replace("enabled", "disabled"), False),
        (ENTRY.format(flags="POCF").replace("b700", "f300"), False),
    ],
    ids=["there", "not opened", "disabled", "another"],
)
def test_emulators_of_the_machine_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, found: bool
) -> None:
    (tmp_path / "qemu-aarch64").write_text(text)
    monkeypatch.setattr(emulation, "HOST_ENTRIES", tmp_path)
    assert is_registered(AARCH64) is found
    argv = emulated("aarch64", ("/bin/true",))
    assert (argv == ("/bin/true",)) is found


def test_docker_needs_the_machine_to_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulation, "HOST_ENTRIES", tmp_path)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert candidates("auto", "x86_64") == ["docker", "bubblewrap"]
    assert candidates("auto", "aarch64") == ["bubblewrap"]
    assert candidates("bubblewrap", "aarch64") == ["bubblewrap"]
    with pytest.raises(UserError, match="docker runs no programs of aarch64 here") as raised:
        candidates("docker", "aarch64")
    assert 'engine = "bubblewrap"' in raised.value.hint
    (tmp_path / "qemu-aarch64").write_text(ENTRY.format(flags="F"))
    assert candidates("auto", "aarch64") == ["docker", "bubblewrap"]


def test_a_kernel_that_takes_no_emulator_is_named() -> None:
    error = refused("aarch64")
    assert "aarch64" in error.found and "6.7" in error.hint and "qemu-user-static" in error.hint


def test_machines_have_what_is_said_of_them() -> None:
    assert X86_64.has_bios and not AARCH64.has_bios
    assert X86_64.libraries == "x86_64-linux-gnu"
