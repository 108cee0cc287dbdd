"""Whether KVM really runs a guest here: /dev/kvm can be there and a guest hang at full load."""

from __future__ import annotations

import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

ANSWER_WITHIN_S = 1.0
# mov dx, 0x501; mov al, 42; out dx, al; hlt; jmp back: qemu's debug-exit device ends the machine.
_BOOT_SECTOR = bytes.fromhex("ba0105b02aeef4ebfd").ljust(510, b"\0") + b"\x55\xaa"
_EXIT_CODE = 42 << 1 | 1
_DISK_SIZE = 1 << 20


@cache
def kvm_works(program: str) -> bool:
    """Start a guest of nine bytes, which ends itself at once where KVM works."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "probe.img"
        disk.write_bytes(_BOOT_SECTOR.ljust(_DISK_SIZE, b"\0"))
        command = [
            *(program, "-accel", "kvm", "-nodefaults", "-display", "none", "-nic", "none"),
            *("-drive", f"if=virtio,format=raw,file={disk}"),
            *("-device", "isa-debug-exit,iobase=0x501,iosize=1"),
        ]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_WITHIN_S,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == _EXIT_CODE
