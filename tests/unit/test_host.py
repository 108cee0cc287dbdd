"""The host's programs, and where they are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.core import host
from builder.core.errors import UserError
from tests.programs import program


def test_servers_are_found_outside_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "belay-server"
    server.touch(mode=0o755)
    monkeypatch.setattr(host, "SYSTEM_PROGRAMS", str(tmp_path))
    assert host.require_program("belay-server") == str(server)


def test_all_that_is_missing_is_named_at_once_with_one_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(host, "SYSTEM_PROGRAMS", "/nowhere")
    with pytest.raises(UserError) as caught:
        host.require_programs(["ssh", "ssh-keygen", "minisign", "qemu-system-x86_64"])
    assert str(caught.value) == (
        "ssh, ssh-keygen, minisign, qemu-system-x86_64 are not installed; on Debian or Ubuntu, as "
        "root: apt-get install -y --no-install-recommends minisign openssh-client ovmf "
        "qemu-system-x86"
    )


def test_alpine_has_a_command_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apk").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(host, "SYSTEM_PROGRAMS", "/nowhere")
    with pytest.raises(UserError) as caught:
        host.require_programs(["xz", "sshd"])
    wanted = "xz, sshd are not installed; as root: apk add openssh-server xz"
    assert str(caught.value) == wanted


def test_a_test_without_its_program_says_so_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(host, "SYSTEM_PROGRAMS", "/nowhere")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"sshd is not installed; .* openssh-server"):
        program("sshd")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(UserError, match="sshd is not installed"):
        program("sshd")
