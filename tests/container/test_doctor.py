"""`inv doctor` finds what is there, and says what to do about what isn't."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.core.paths import CACHE
from tasks.doctor import Finding, findings

pytestmark = pytest.mark.container


def by_subject() -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings()}


def test_a_machine_that_runs_these_tests_is_well() -> None:
    assert {f.subject: f.found for f in by_subject().values() if f.state == "wrong"} == {}


def test_a_board_on_another_architecture_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BELAY_BOOT_BOARD", "rpi")
    monkeypatch.setenv("BELAY_ALPINE_KERNEL", "rpi")
    found = by_subject()["image.toml"]
    assert found.state == "wrong" and 'goes with arch = "aarch64"' in found.found
    monkeypatch.setenv("BELAY_ALPINE_ARCH", "aarch64")
    assert by_subject()["image.toml"].state == "ok"


def test_a_forbidden_user_namespace_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied'; exit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr("builder.engines.bubblewrap.bwrap_path", lambda: fake)
    monkeypatch.setenv("BELAY_BUILD_ENGINE", "bubblewrap")
    found = by_subject()["container"]
    assert found.state == "wrong"
    assert "Permission denied" in found.found
    assert "sysctl -w" in found.remedy


def test_a_daemon_matters_where_docker_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setenv("BELAY_BUILD_ENGINE", "docker")
    found = by_subject()["container"]
    assert (found.state, found.found[:26]) == ("wrong", "no docker daemon answers: ")
    assert "set DOCKER_HOST" in found.remedy
    monkeypatch.setenv("BELAY_BUILD_ENGINE", "auto")
    assert by_subject()["container"].found == "bubblewrap starts jobs"


def test_missing_qemu_is_no_mistake_but_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("builder.core.host.SYSTEM_PROGRAMS", "/nowhere")
    found = by_subject()["virtual machines"]
    assert found.state == "missing"
    assert "apt-get install" in found.remedy
    found = by_subject()["other programs"]
    assert (found.state, found.found[:18]) == ("missing", "no dot, minisign, ")
    assert "sshd" in found.found and "openssh-server" in found.remedy


def test_the_size_of_the_cache_is_shown() -> None:
    found = by_subject()["cache"]
    assert found.state == "ok" and str(CACHE) in found.found and "iB in" in found.found
