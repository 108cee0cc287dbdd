"""`inv shell STEP` puts a person where the step would run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pexpect
import pytest

from builder.core.paths import PROJECT
from tests.inv import Inv
from tests.mirror import Mirror

pytestmark = pytest.mark.container


@pytest.fixture(params=["bubblewrap", "docker"])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """Chooses the engine."""
    output = str(request.getfixturevalue("tmp_path"))
    environment = {**os.environ, "BELAY_BUILD_ENGINE": request.param, "BELAY_OUTPUT": output}
    if request.param == "docker":
        environment["DOCKER_HOST"] = request.getfixturevalue("docker_host")
    return environment


def test_a_step_can_be_run_by_hand_in_its_shell(
    artefacts: Path, environment: dict[str, str]
) -> None:
    console = pexpect.spawn(
        sys.executable, ["tasks.py", "shell", "frame"], cwd=str(PROJECT), timeout=400,
        dimensions=(33, 111), encoding="utf-8", env=environment,
    )  # fmt: skip
    console.expect("its script by hand: sh -eux in/script")
    console.expect("frame:.* # ")
    console.sendline("echo SIZ$((0))E $(stty size) $SIZE_MIB; ls in")
    console.expect("SIZ0E 33 111 [0-9]+")
    console.expect("grubenv")
    console.expect(" # ")
    console.setwinsize(44, 77)
    console.sendline("echo RESIZ$((0))ED $(stty size)")
    console.expect("RESIZ0ED 44 77")
    # It says so itself: between its start by the shell and its own beginning Ctrl-C gets lost.
    waits = "trap 'exit 9' INT; echo STAR$((0))TED; while :; do sleep 1; done"
    console.sendline(f'sh -c "{waits}"; echo LEF$((0))T $?')
    console.expect("STAR0TED")
    console.sendintr()  # ends that, and not the shell
    console.expect("LEF0T 9")
    console.sendline("sh -eux in/script 2>/dev/null; echo COD$((0))E $?")
    console.expect("COD0E 0")
    console.sendline("exit")
    console.expect(pexpect.EOF)
    console.close()
    assert console.exitstatus == 0
    made = Path(environment["BELAY_OUTPUT"]) / "shell/frame/out"
    disk = (artefacts / "disk.img").read_bytes()
    assert disk.startswith((made / "frame.head").read_bytes()), "by hand it is the same"
    tail = (made / "frame.tail").read_bytes() + (made / "frame.end").read_bytes()
    assert disk.endswith(tail)


def test_an_unknown_step_is_named() -> None:
    console = pexpect.spawn(
        sys.executable, ["tasks.py", "shell", "knot"], cwd=str(PROJECT), timeout=400,
        encoding="utf-8",
    )  # fmt: skip
    console.expect('there is no step "knot"; there are: chroot')
    console.expect(pexpect.EOF)


def test_a_step_of_this_machine_alone_has_no_shell(tmp_path: Path, mirror: Mirror) -> None:
    output = Inv(tmp_path, mirror).fails("shell", "image")
    assert "image runs on this machine, in no container" in output
