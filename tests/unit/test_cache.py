"""Pruning the cache: the longest unused goes first, what is in use stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from builder.core import cache

HOUR_S = 3600


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "CACHE", tmp_path)
    monkeypatch.setattr("builder.core.files.CACHE", tmp_path)
    return tmp_path


def put(folder: Path, name: str, hours: float, size: int = 64 * 1024) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    (path / "file").write_bytes(bytes(range(256)) * (size // 256))
    used = time.time() - hours * HOUR_S
    os.utime(path, (used, used))
    return path


def names(gone: list[cache.Entry]) -> list[str]:
    return [entry.path.name for entry in gone]


def test_what_was_not_used_for_long_goes(folder: Path) -> None:
    old, new = put(folder, "results/old", 48), put(folder, "results/new", 2)
    assert names(cache.prune(24 * HOUR_S, None)) == ["old"]
    assert not old.exists() and new.exists()


def test_the_longest_unused_goes_until_the_rest_fits(folder: Path) -> None:
    for name, hours in {"results/a": 5, "containers/b": 9, "packages/c": 7}.items():
        put(folder, name, hours)
    size = cache.entries()[0].size
    assert names(cache.prune(None, 2 * size)) == ["b"]
    assert names(cache.prune(None, size)) == ["c"]
    assert names(cache.prune(None, size)) == []


def test_what_was_used_just_now_stays_however_full_it_is(folder: Path) -> None:
    path = put(folder, "results/a", 5)
    cache.mark_used(path)
    assert cache.prune(None, 1) == []


def test_what_is_being_made_is_no_entry(folder: Path) -> None:
    put(folder, "results/.partial-x", 99)
    assert cache.entries() == []
