"""Channels and targets, as those who publish name them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from builder.core.config import Config, Publish
from builder.core.paths import PROJECT
from builder.releases.targets import target_of
from tasks.channel import VALID, _state
from updater.formats import Channel

DAY_S = 24 * 3600


@pytest.mark.parametrize(
    ("days", "state"),
    [(1.0, VALID), (-3.2, "expired 3 days ago: publish it again, nodes believe it no longer")],
)
def test_nodes_believe_a_channel_until_it_expires(days: float, state: str) -> None:
    expires = int(time.time() + days * DAY_S)
    assert _state(Channel("belay", "stable", "1.0.0", "0" * 64, 0, expires)) == state


def test_a_folder_of_image_toml_lies_in_the_project_and_one_that_is_typed_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = Config(publish=Publish(to="www"))
    assert target_of(config, "").name == str(PROJECT / "www")
    assert Path(target_of(config, "www").name).resolve() == tmp_path / "www"
    assert target_of(Config(publish=Publish(to="/srv/www")), "").name == "/srv/www"
