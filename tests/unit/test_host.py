"""The host's programs, and where they are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core import host


def test_servers_are_found_outside_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "belay-server"
    program.touch(mode=0o755)
    monkeypatch.setattr(host, "SYSTEM_PROGRAMS", str(tmp_path))
    assert host.require_program("belay-server") == str(program)
