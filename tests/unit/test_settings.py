"""A node's own settings, however odd: what counts is resolved once, for Python and shell."""

from __future__ import annotations

import json
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from builder.core import config
from builder.core.config import Update
from tests.services import add_library
from updater.__main__ import main
from updater.contract import RUN_NODE
from updater.settings import LIMITS, PATTERNS, WANTED, Settings, for_shell, read_settings

SCRIPT = '"$ROOT/usr/lib/belay/disk.sh"'
IMAGE = Settings(url="https://image.example/belay", boot_s=900)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_library(tmp_path)
    for folder in ("etc/belay", RUN_NODE):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/belay/settings.json").write_text(json.dumps(IMAGE._asdict(), indent=1))
    (tmp_path / "etc/belay/settings").write_text(for_shell(IMAGE))
    return tmp_path


def by_shell(root: Path, name: str) -> str:
    done = subprocess.run(
        ["sh", "-uc", f". {SCRIPT}; setting {name}"],
        env={"ROOT": str(root), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout.removesuffix("\n")


def resolved(root: Path, own: str) -> tuple[dict[str, object], list[str]]:
    """What is other than the image says, and the warnings."""
    (root / RUN_NODE / "settings.json").write_text(own)
    assert main(["--root", str(root), "settings", "--resolve"]) == 0
    settings, wrong = read_settings(root)
    for name, value in settings._asdict().items():
        want = str(value).lower() if isinstance(value, bool) else str(value)
        assert by_shell(root, name) == want, name
    warnings = root / "run/belay/warnings"
    assert (warnings.read_text().splitlines() if warnings.exists() else []) == wrong
    changed = settings._asdict().items() - IMAGE._asdict().items()
    return dict(changed), wrong


def test_without_own_settings_those_of_the_image_count(root: Path) -> None:
    assert by_shell(root, "boot_s") == "900"
    assert by_shell(root, "url") == IMAGE.url
    assert by_shell(root, "network") == "false"
    assert resolved(root, "{}") == ({}, [])


@pytest.mark.parametrize(
    ("own", "counts"),
    [
        (
            '{"interval_s": 10, "url": "http://10.0.2.2:8000", "boot_s": 1800, "site": true}',
            {"interval_s": 10, "url": "http://10.0.2.2:8000", "boot_s": 1800, "site": True},
        ),
        ('{\n  "interval_s" :\t20\n ,"boot_s":60, "url":"" }', {"interval_s": 20, "boot_s": 60}),
        ('{"url": "http://a/?boot_s=77&x=[1]"}', {"url": "http://a/?boot_s=77&x=[1]"}),
        ('{"window": "22-4"}', {"window": "22-4"}),
        ('{"log": "udp://log.example:5514"}', {"log": "udp://log.example:5514"}),
        ('{"log": "udp://10.0.0.7:65535"}', {"log": "udp://10.0.0.7:65535"}),
        ('{"log": "udp://[fd00::1]"}', {"log": "udp://[fd00::1]"}),
        ('{"interval_s": 31622400}', {"interval_s": 31622400}),
    ],
)
def test_what_makes_sense_counts(root: Path, own: str, counts: dict[str, object]) -> None:
    counts = {"url": "", **counts} if '"url":""' in own else counts
    assert resolved(root, own) == (counts, [])


@pytest.mark.parametrize(
    "own",
    [
        '"interval_s": "10"',
        '"boot_s": true',
        '"url": 7',
        '"interval_s": 9',
        '"boot_s": 59',
        '"interval_s": -1',
        '"boot_s": 1.5',
        '"interval_s": 1e9',
        '"boot_s": null',
        f'"interval_s": {"9" * 400}',
        '"boot_s": 99999999',
        '"interval_s": 99999999',
        '"interval_s": [10]',
        '"boot_s": {"a": 70}',
        '"window": "25-30"',
        '"window": "7-7"',
        '"window": "\u00b2-3"',
        '"window": "22:00-4:00"',
        '"window": "22\u20134"',
        '"channel": "my channel"',
        '"channel": "../x"',
        '"colour": "red"',
        '"log": "log.example"',
        '"log": "udp://log.example:65536"',
        '"log": "udp://log.example -O /data/x"',
        json.dumps("url") + ": " + json.dumps("a\x1b[2J"),
        json.dumps("url") + ": " + json.dumps("x" * 3000),
    ],
)
def test_what_makes_no_sense_is_ignored_and_told(root: Path, own: str) -> None:
    """The rest of the file counts."""
    changed, wrong = resolved(root, f'{{"stick": "MINE", {own}}}')
    name = own.split('"')[1]
    assert changed == {"stick": "MINE"}
    assert len(wrong) == 1 and wrong[0].startswith(f"settings.json: {name} is ")
    assert wrong[0].isprintable() and "{0," not in wrong[0], "words, not a pattern"


@pytest.mark.parametrize(
    "own",
    ["", "rubbish", "[" * 100_000, "[1]", '{"boot_s": 70', '{"boot_s": 70,}', '{"boot_s": 0900}'],
)
def test_what_is_no_json_is_ignored_and_told(root: Path, own: str) -> None:
    changed, wrong = resolved(root, own)
    assert changed == {}
    assert len(wrong) == 1 and "settings.json is no JSON object, and is ignored: " in wrong[0]


def test_image_toml_has_each_setting_with_its_default() -> None:
    own = {field.name: getattr(Update(), field.name) for field in fields(Update)}
    own["log"] = config.Node().log
    assert own == Settings()._asdict()
    assert not {*LIMITS, *PATTERNS} - own.keys() and PATTERNS.keys() == WANTED.keys()
