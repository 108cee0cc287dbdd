"""The health checks of the image, as they lie there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.core.paths import PROJECT

CHECKS = PROJECT / "rootfs/overlay/etc/belay/health.d"
LOG = """
rc default logging started at Mon Nov  2 10:00:00 2026

 * Starting networking ...
 *   eth0 ...
 [ ok ]
 * Starting broken ...
 * out of luck
 [ !! ]
 * ERROR: broken failed to start
 * Starting fine ...\r
 [ ok ]\r
 * Mounting /data ...mount: mounting /dev/vda6 on /data failed
 * /dev/vda6 can't be mounted: /run/belay-fsck.log
 [ !! ]
 * ERROR: belay-data failed to start
 * ERROR: cannot start late as broken would not start
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for level, names in (("boot", ("belay-data",)), ("default", ("broken", "fine", "late"))):
        folder = tmp_path / "etc/runlevels" / level
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
    (tmp_path / "etc/runlevels/sysinit").mkdir()
    for more in ("run/openrc/started", "var/log"):
        (tmp_path / more).mkdir(parents=True)
    (tmp_path / "run/openrc/started/fine").touch()
    (tmp_path / "var/log/rc.log").write_text(LOG)
    return tmp_path


def services(root: Path, mode: str = "good", data: str = "") -> tuple[int, list[str]]:
    env = {"ROOT": str(root), "PATH": "/usr/bin:/bin", "BELAY_MODE": mode, "BELAY_DATA": data}
    done = subprocess.run(
        [CHECKS / "10-services"], env=env, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout.splitlines()


def test_what_a_service_said_itself_is_the_reason(root: Path) -> None:
    """In one line, the last; not what others said beside it."""
    code, output = services(root)
    assert code == 1
    assert output[-1] == (
        "not running: belay-data broken late; "
        "belay-data: /dev/vda6 can't be mounted: /run/belay-fsck.log; broken: out of luck"
    )
    assert "eth0" not in "".join(output) and "ERROR" not in "".join(output)
    (root / "var/log/rc.log").unlink()
    assert services(root) == (1, ["not running: belay-data broken late"])


def test_data_that_failed_before_is_no_reason_to_reject_a_release(root: Path) -> None:
    for name in ("broken", "late"):
        (root / "run/openrc/started" / name).touch()
    assert services(root, "trial")[0] == 1
    assert services(root, "good", "lost")[0] == 1
    assert services(root, "trial", "lost") == (0, [])


@pytest.mark.parametrize(("mode", "data", "code"), [("trial", "lost", 77), ("trial", "", 1)])
def test_data_that_is_not_mounted(root: Path, mode: str, data: str, code: int) -> None:
    env = {"PATH": "/usr/bin:/bin", "BELAY_MODE": mode, "BELAY_DATA": data}
    done = subprocess.run(
        [CHECKS / "20-data"], env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code and "/data" in done.stdout
