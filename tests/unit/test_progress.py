"""What is shown of work that lasts."""

import time

import pytest

from builder.core.progress import Progress


def test_a_transfer_says_how_much_came_and_how_long_it_will_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output: list[str] = []
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress()
    monkeypatch.setattr(progress, "started", lambda name, detail, quiet: output.append(detail))
    with progress.transfer("fetch") as transferred:
        transferred(0, 4096)
        now += 2
        transferred(1024, 4096)
    assert output == ["0 B of 4.0 KiB", "1.0 KiB of 4.0 KiB, 6 s left"]


def test_without_a_terminal_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress()
    progress.started("pack", "0 of 9 MiB")
    progress.started("look", quiet=True)
    for seconds in range(1, 25):
        now = 100.0 + seconds
        progress.started("pack", f"{seconds} MiB")
        progress.started("look", f"{seconds} files", quiet=True)
    assert capsys.readouterr().err.splitlines() == [
        "pack: 0 of 9 MiB",
        "pack: 10 MiB",
        "look: 10 files",
        "pack: 20 MiB",
        "look: 20 files",
    ]


def test_a_transfer_ends_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    progress = Progress()
    monkeypatch.setattr(progress, "stopped", stopped.append)
    with pytest.raises(OSError), progress.transfer("fetch") as transferred:
        transferred(1, 2)
        raise OSError("gone")
    assert stopped == ["fetch"]
