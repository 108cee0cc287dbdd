"""A node's own settings: shell and Python read the same, however odd they are."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tasks.core.paths import PROJECT
from updater.node import LIMITS, NODE_FILES, Settings, _own_settings

SCRIPT = PROJECT / "rootfs/overlay/usr/lib/belay/disk.sh"
IMAGE = {**Settings()._asdict(), "url": "https://image.example/belay", "boot_s": 900}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("etc/belay", NODE_FILES):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/belay/settings.json").write_text(json.dumps(IMAGE, indent=1))
    return tmp_path


def by_shell(root: Path, words: str) -> str:
    done = subprocess.run(
        ["sh", "-uc", f". '{SCRIPT}'; setting {words}"],
        env={"ROOT": str(root), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"interval_s": 10, "url": "http://10.0.2.2:8000", "boot_s": 1800}',
        '{\n  "interval_s" :\t20\n ,"boot_s":60, "url":"" }',
        '{"interval_s": "10", "boot_s": true, "url": 7}',
        '{"interval_s": 9, "boot_s": 59}',
        '{"interval_s": -1, "boot_s": 1.5}',
        '{"interval_s": 1e9, "boot_s": null}',
        f'{{"interval_s": {"9" * 400}, "boot_s": {"1" * 400}}}',
        '{"interval_s": [10], "boot_s": {"a": 70}}',
        '{"url": "http://a/?boot_s: 77"}',
    ],
)
def test_shell_and_python_read_the_same(root: Path, text: str) -> None:
    (root / NODE_FILES / "settings.json").write_text(text)
    settings = Settings(**IMAGE | _own_settings(root))
    for name in ("interval_s", "boot_s"):
        least = LIMITS[name][0]
        assert by_shell(root, f"{name} {least}") == str(getattr(settings, name)), name
    assert by_shell(root, "url") == settings.url


@pytest.mark.parametrize("text", ["", "rubbish", "[" * 100_000, "[1]", '{"boot_s": 70'])
def test_what_is_no_json_changes_nothing(root: Path, text: str) -> None:
    (root / NODE_FILES / "settings.json").write_text(text)
    assert _own_settings(root) == {}
    assert by_shell(root, "interval_s 10") == "3600"


@pytest.mark.parametrize("value", ["a\x1b[2J", "x" * 3000])
def test_odd_texts_are_ignored(root: Path, value: str) -> None:
    (root / NODE_FILES / "settings.json").write_text(json.dumps({"url": value, "channel": "beta"}))
    assert _own_settings(root) == {"channel": "beta"}
