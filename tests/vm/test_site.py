"""One image and one site make different nodes; a configuration that harms a node is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.vm.machine import Machine
from tests.project import Project, free_port, nginx

pytestmark = pytest.mark.vm

GATE = "rc-service belay-gate status"
SITE_TIMEOUT_S = 180


@pytest.fixture
def project(artefacts: Path, tmp_path: Path) -> Iterator[Project]:
    """A clone whose server has the example site, and whose nodes want a network."""
    project = Project(tmp_path, free_port())
    project.env |= {"BELAY_UPDATE_SITE": "true", "BELAY_UPDATE_NETWORK": "true"}
    with nginx(project.www, project.port, tmp_path / "nginx"):
        project.inv("site.publish", "--channel", "stable")
        project.inv("image")
        yield project


def node(project: Project, folder: Path, name: str) -> Machine:
    stick = folder / f"stick of {name}"
    stick.mkdir()
    (stick / "name").write_text(f"{name}\n")
    return Machine(project.build / "disk.img", folder / name, bios=True, usb=stick)


def publish(project: Project, version: str, line: str) -> None:
    """Publish the site with another line in the role that all nodes have."""
    (project.root / "site/version").write_text(f"{version}\n")
    roles = project.root / "site/roles.py"
    before, mark, after = roles.read_text().partition("def web(")
    kept = [text for text in before.splitlines() if "import subprocess" not in text]
    roles.write_text("\n".join([*kept, f"    import subprocess; {line}", "", "", mark]) + after)
    project.inv("site.publish", "--channel", "stable")


def test_a_site_makes_different_nodes_of_one_image(project: Project, tmp_path: Path) -> None:
    with node(project, tmp_path, "crag-2") as machine:
        machine.wait_for_login()
        machine.wait_until_succeeds(GATE)
        said = json.loads(machine.succeed("belay site --json", SITE_TIMEOUT_S).splitlines()[-1])
        assert (said["version"], said["well"], said["changed"]) == (
            "0.1.0",
            True,
            ["file /etc/motd"],
        )
        machine.fail("wget -q -O - http://127.0.0.1:8080/")

    with node(project, tmp_path, "crag-1") as machine:
        machine.wait_for_login()
        machine.wait_until_succeeds(GATE)
        assert "site 0.1.0 is applied" in machine.succeed("belay site", SITE_TIMEOUT_S)
        page = machine.wait_until_succeeds("wget -q -O - http://127.0.0.1:8080/")
        assert "Welcome from crag-1." in page
        assert "nothing new" in machine.succeed("belay site")

        # A second apply changes nothing, as seen from outside.
        machine.succeed("touch /tmp/before && sleep 1 && /run/belay/site/apply crag-1")
        touched = "find /etc /srv /lib /usr -newer /tmp/before 2>/dev/null | grep -v __pycache__"
        assert machine.fail(touched) == ""

        # One that cuts the node off: the node goes back by itself, and applies what was good.
        publish(project, "0.2.0", "subprocess.run(['ip', 'link', 'set', 'eth0', 'down'])")
        machine.type("belay pull\n")
        machine.wait_for_console("site 0.2.0 is left: check 40-network failed", SITE_TIMEOUT_S)
        machine.wait_for_login()
        machine.wait_until_succeeds(GATE)
        status = machine.succeed("belay status")
        assert "site 0.1.0, " in status
        assert "site 0.2.0 was left: check 40-network failed" in status
        assert "slot a: good, 8 tries left" in status
        machine.wait_until_succeeds("wget -q -O - http://127.0.0.1:8080/")
        assert "nothing new" in machine.succeed("belay site")

        # Power is lost while one is tried.
        publish(project, "0.3.0", "subprocess.run(['sleep', '9999'])")
        machine.type("belay site &\n")
        machine.wait_until_succeeds("pgrep -f 'sleep 9999'", SITE_TIMEOUT_S)
        machine.power_cut()
        machine.start()
        machine.wait_for_login()
        machine.wait_until_succeeds(GATE)
        status = machine.succeed("belay status")
        assert "site 0.1.0, " in status
        assert "site 0.3.0 was left: the node went down before it was confirmed" in status
        assert "site left" in machine.succeed("belay history")


def test_a_site_is_tried_before_nodes_get_it(project: Project) -> None:
    """On each node: one is well, and one changes something with each apply."""
    roles = project.root / "site/roles.py"
    mark = "def web("
    harm = '    if node.name == "crag-2":\n        import time\n\n'
    harm += '        tools.file("/etc/stamp", str(time.time()))\n\n\n'
    roles.write_text(roles.read_text().replace(f"\n\n{mark}", f"{harm}{mark}"))
    done = project.run("site.test", "--json")
    assert done.returncode == 1 and done.stdout, done.stderr
    matrix = json.loads(done.stdout)
    assert matrix["crag-1"] == {"tree": ""}
    assert matrix["crag-2"]["tree"].startswith("a second apply changed /etc")
