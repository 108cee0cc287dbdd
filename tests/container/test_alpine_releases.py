"""Two Alpine releases side by side: one option, a lock for each, nothing built twice."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from builder.core.paths import PROJECT
from tests.inv import Inv
from tests.mirror import Mirror

pytestmark = pytest.mark.container


def chroot(lock: Path, *words: str) -> tuple[str, str]:
    """Build the chroot: whether it was built or cached, and its Alpine release."""
    env = {
        **os.environ,
        "BELAY_LOCK": str(lock),
        "BELAY_OUTPUT": str(lock.parent / "build"),
        "BELAY_ALPINE_MIRROR": "sample",
    }
    done = subprocess.run(
        [PROJECT / "inv", "chroot", "--json", *words], env=env, cwd=PROJECT,
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with tarfile.open(lock.parent / "build" / "chroot.tar") as tar:
        reader = tar.extractfile("etc/alpine-release")
        assert reader is not None
        return json.loads(done.stdout)[0]["state"], reader.read().decode().strip()


def test_switching_between_releases_rebuilds_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "apk.lock"
    chroot(lock, "--alpine", "3.23.5")
    assert chroot(lock)[1] == "3.23.6"
    assert chroot(lock, "--alpine", "3.23.5") == ("cached", "3.23.5")
    assert chroot(lock) == ("cached", "3.23.6")
    assert sorted(path.name for path in tmp_path.glob("*.lock")) == ["apk-3.23.5.lock", "apk.lock"]


def test_a_release_that_the_mirror_no_longer_has_is_refused(tmp_path: Path, mirror: Mirror) -> None:
    inv = Inv(tmp_path, mirror)
    output = inv.fails("lock", BELAY_ALPINE_RELEASE="3.23.5")
    assert "the mirror has Alpine 3.23.6, and 3.23.5 is asked for" in output
    inv.succeeds("lock", BELAY_ALPINE_RELEASE="3.23.6")
