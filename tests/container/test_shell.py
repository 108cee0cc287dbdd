"""`inv shell STEP` puts a person where the step would run."""

from __future__ import annotations

import sys
from pathlib import Path

import pexpect
import pytest

from tasks.core.paths import BUILD, PROJECT

pytestmark = pytest.mark.container


def test_a_step_can_be_run_by_hand_in_its_shell(artefacts: Path) -> None:
    console = pexpect.spawn(
        sys.executable, ["-m", "invoke", "shell", "image"], cwd=str(PROJECT), timeout=120,
        dimensions=(33, 111), encoding="utf-8",
    )  # fmt: skip
    console.expect("its script by hand: sh -eux in/script")
    console.expect("image:.* # ")
    console.sendline("echo SIZ$((0))E $(stty size) $SIZE_MIB; ls in")
    console.expect("SIZ0E 33 111 [0-9]+")
    console.expect("slot.img")
    console.expect(" # ")
    console.setwinsize(44, 77)
    console.sendline("echo RESIZ$((0))ED $(stty size)")
    console.expect("RESIZ0ED 44 77")
    console.sendline("echo STAR$((0))TED; sleep 600")
    console.expect("STAR0TED")
    console.sendintr()  # ends sleep, and not the shell
    console.sendline("sh -eux in/script 2>/dev/null; echo COD$((0))E $?")
    console.expect("COD0E 0")
    console.sendline("exit")
    console.expect(pexpect.EOF)
    console.close()
    made = (BUILD / "shell/image/out/disk.img").read_bytes()
    assert made == (artefacts / "disk.img").read_bytes(), "by hand it is the same"


def test_an_unknown_step_is_named() -> None:
    console = pexpect.spawn(
        sys.executable, ["-m", "invoke", "shell", "knot"], cwd=str(PROJECT), timeout=120,
        encoding="utf-8",
    )  # fmt: skip
    console.expect('there is no step "knot"; there are: chroot')
    console.expect(pexpect.EOF)
