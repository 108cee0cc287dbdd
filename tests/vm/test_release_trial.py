"""A release is tried in a machine before nodes get it: it passes, or is rejected and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.vm.hardware import free_port
from tests.project import Project

pytestmark = pytest.mark.vm(minutes=4)

CHECK = "rootfs/overlay/etc/belay/health.d/60-moon"


def test_a_release_is_judged_by_its_own_checks(artefacts: Path, tmp_path: Path) -> None:
    """The image's slots are good, and a good slot is kept whatever its checks say."""
    project = Project(tmp_path, free_port())
    project.release("1.0.0")
    check = project.root / CHECK
    check.write_text("#!/bin/sh\necho looking up\necho the moon is full\nexit 1\n")
    check.chmod(0o755)
    project.release("1.1.0")
    done = project.run("release.test", "1.1.0", "--json")
    assert done.returncode == 1, done.stderr
    reason = "check 60-moon failed: the moon is full\nlooking up"
    assert json.loads(done.stdout) == {"version": "1.1.0", "before": "1.0.0", "rejected": reason}
    assert "testing 1.1.0: booting 1.0.0" in done.stderr, "it says what goes on"
    upload = ("upload", "--channel", "stable", "--unverified")
    done = project.run(*upload, BELAY_PUBLISH_TESTED="true")
    assert done.returncode == 1 and "so 1.1.0 is not published" in done.stderr
    assert not (project.www / "channels").exists()
    (project.root / "site/inventory.toml").write_text("[nodes.crag-2]\n")
    done = project.run("site.test", "--json")
    assert done.returncode == 1
    (row,) = json.loads(done.stdout).values()
    assert all("the moon is full" in wrong for wrong in row.values()), row
    assert "no release 1.5.0" in project.run("release.test", "1.5.0").stderr
