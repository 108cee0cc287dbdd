"""One image and one site make different nodes; a configuration that harms a node is rejected."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builder.core.paths import PROJECT
from builder.disk.boot_state import read_boot_state, write_boot_state
from builder.vm.hardware import free_port
from builder.vm.machine import Machine
from tests.project import Nginx, Project
from updater.contract import GOOD, TRIES

pytestmark = pytest.mark.vm(minutes=5)

SITE_TIMEOUT_S = 600
PROGFIGSITE = PROJECT / "tests" / "progfigsite"
PROGFIGURATION = (
    "progfiguration==0.0.10 "
    "--hash=sha256:b202ebc435be17d4985670f3d6144a07aefeebdfd1c241641b100ad7d4b2e0e6\n"
)


@pytest.fixture
def project(artefacts: Path, tmp_path: Path) -> Iterator[Project]:
    """A clone whose server has the example site, and whose nodes want a network."""
    project = Project(tmp_path, free_port())
    project.env |= {"BELAY_UPDATE_SITE": "true", "BELAY_UPDATE_NETWORK": "true"}
    with Nginx(project.www, project.port, tmp_path / "nginx"):
        project.inv("site.publish", "--channel", "stable")
        project.inv("image")
        yield project


def node(project: Project, folder: Path, name: str) -> Machine:
    stick = folder / f"stick of {name}"
    stick.mkdir()
    project.inv("node.new", name, "--usb", str(stick))
    return Machine(project.build / "disk.img", folder / name, bios=True, usb=stick)


def publish(project: Project, version: str, **lines: str) -> None:
    """Publish the example site with a line more in some of its roles."""
    roles = (PROJECT / "site/roles.py").read_text()
    for role, line in lines.items():
        roles = re.sub(rf'def {role}\(.*\n    """.*\n', rf"\g<0>    {line}\n", roles)
    (project.root / "site/roles.py").write_text(roles)
    (project.root / "site/version").write_text(f"{version}\n")
    project.inv("site.publish", "--channel", "stable")


def wait_until_left(machine: Machine, good: str, version: str, why: str) -> str:
    """Until a site was given up and the node has the last good one again; its status."""
    machine.wait_for_console(f"site {version} is rejected: {why}", SITE_TIMEOUT_S)
    machine.wait_for_login()
    machine.wait_until_confirmed()
    status = machine.succeed("belay status")
    assert f"site {good}, " in status
    assert f"site {version} was rejected: " in status
    assert why in status
    return status


def test_a_web_server_leaves_what_harms_it(project: Project, tmp_path: Path) -> None:
    """The site makes a web server of crag-1."""
    machine = node(project, tmp_path, "crag-1")
    (tmp_path / "token").write_text("open sesame")
    project.inv("site.secret", "crag-1", "token", "--file", str(tmp_path / "token"))
    web = "tools.file('/etc/token', tools.secret('token'), 0o600)"
    publish(project, "0.2.0", web=web)
    with machine:
        with machine.stage("the first site"):
            machine.wait_for_login()
            machine.wait_until_confirmed()
            assert "site 0.2.0 is applied" in machine.succeed("belay site", SITE_TIMEOUT_S)
            assert (
                machine.succeed("cat /etc/token; stat -c ' %a' /etc/token") == "open sesame 600\n"
            )
            page = machine.wait_until_succeeds("wget -q -O - http://127.0.0.1:8080/")
            assert "Welcome from crag-1." in page
            assert "nothing new" in machine.succeed("belay site")

            # A second apply changes nothing, as seen from outside.
            machine.succeed("touch /tmp/before && sleep 1 && /run/belay/site/apply crag-1")
            touched = (
                "find /etc /srv /lib /usr -newer /tmp/before 2>/dev/null | grep -v __pycache__"
            )
            assert machine.fail(touched) == ""
        with machine.stage("a site that cuts the node off"):
            # One that cuts the node off: the node goes back by itself, and applies what was good.
            cut = "import subprocess; subprocess.run(['ip', 'link', 'set', 'eth0', 'down'])"
            publish(project, "0.3.0", web=web, common=cut)
            machine.type("belay pull\n")
            status = wait_until_left(machine, "0.2.0", "0.3.0", "check 40-network failed")
            assert f"slot a: good, {TRIES[GOOD]} tries left" in status
            machine.wait_until_succeeds("wget -q -O - http://127.0.0.1:8080/")
            assert "nothing new" in machine.succeed("belay site")
        with machine.stage("a site that fills the disk"):
            # So is one that fills the disk; the node can be reached, and its owner makes room.
            fill = "for n in 1 2 3; do cat /dev/zero >/data/fill$n; sync; done"
            fill = f"import subprocess; subprocess.run('{fill}', shell=True)"
            publish(project, "0.4.0", web=web, common=fill)
            machine.type("belay pull\n")
            wait_until_left(machine, "0.2.0", "0.4.0", "check 20-data failed")
            machine.succeed("rm /data/fill*")
        with machine.stage("a power cut while a site is tried"):
            # Power is lost while one is tried.
            publish(project, "0.5.0", web=web, common="import time; time.sleep(9999)")
            machine.type("belay site &\n")
            machine.wait_until_succeeds("pgrep -f run/belay/site/apply", SITE_TIMEOUT_S)
            machine.power_cut()
            machine.start()
            machine.wait_for_login()
            machine.wait_until_confirmed()
            status = machine.succeed("belay status")
            assert "site 0.2.0, " in status
            assert "site 0.5.0 was rejected: the node went down before it was confirmed" in status
            assert "site rejected" in machine.succeed("belay history")


def test_another_node_leaves_what_fails_in_either_slot(project: Project, tmp_path: Path) -> None:
    """No web server is made of crag-2; but of the same disk, with the stick of crag-1."""
    project.inv("image", BELAY_UPDATE_DEADLINE_S="90")
    machine = node(project, tmp_path, "crag-2")
    other = tmp_path / "stick of crag-1"
    other.mkdir()
    project.inv("node.new", "crag-1", "--usb", str(other))
    (tmp_path / "token").write_text("open sesame")
    project.inv("site.secret", "crag-1", "token", "--file", str(tmp_path / "token"))
    secrets = project.root / "site/secrets"
    with machine:
        with machine.stage("another site"):
            machine.wait_for_login()
            machine.wait_until_confirmed()
            output = json.loads(
                machine.succeed("belay site --json", SITE_TIMEOUT_S).splitlines()[-1]
            )
            assert (output["version"], output["well"], output["changed"]) == (
                "0.1.0",
                True,
                ["file /etc/motd"],
            )
            machine.fail("wget -q -O - http://127.0.0.1:8080/")
        with machine.stage("another node's secret"):
            shutil.copytree(secrets / "crag-1", secrets / "crag-2")
            publish(project, "0.2.0", common="tools.secret('token')")
            machine.type("belay pull\n")
            why = (
                "apply: crag-2: secret token: secrets/crag-2/token.age: it is encrypted for another"
            )
            wait_until_left(machine, "0.1.0", "0.2.0", why)
        with machine.stage("a site that hangs"):
            publish(project, "0.3.0", common="import time; time.sleep(9999)")
            machine.type("belay pull\n")
            why = "apply: it was not done within 90 s"
            machine.wait_for_console(f"site 0.3.0 is rejected: {why}", SITE_TIMEOUT_S)
            machine.wait_for_console(r"belay: booting slot a")
            machine.power_cut()
            machine.hardware = replace(machine.hardware, usb=other)
            each_slot_has_its_own(project, machine)
            assert f"site 0.3.0 was rejected: {why}" in machine.succeed("belay status")


def each_slot_has_its_own(project: Project, machine: Machine) -> None:
    """The other slot begins with what was good; going back brings back what was good there."""
    write_boot_state(machine.disk, read_boot_state(machine.disk)._replace(order=("b", "a")))
    publish(project, "0.4.0", common="tools.file('/etc/second', '2')")
    machine.start()
    machine.wait_for_console(r"belay: booting slot b \(good\)")
    machine.wait_for_login()
    machine.wait_until_confirmed()
    assert "site 0.1.0, " in machine.succeed("belay status")
    page = machine.wait_until_succeeds("wget -q -O - http://127.0.0.1:8080/")
    assert "Welcome from crag-1." in page
    assert "site 0.4.0 is applied" in machine.succeed("belay site", SITE_TIMEOUT_S)
    machine.succeed("ls /etc/second && belay rollback")
    machine.type("reboot\n")
    machine.wait_for_console(r"belay: booting slot a \(good\)")
    machine.wait_for_login()
    assert "site 0.1.0, " in machine.succeed("belay status")
    machine.fail("ls /etc/second")


def test_a_site_is_tried_before_nodes_get_it(project: Project) -> None:
    """With the newest release and the tree, judged by the checks. Else the release stays here.

    The consoles are locked, as nodes should have them.
    """
    project.env |= {"BELAY_LOGIN_CONSOLE": "locked"}
    project.release("1.0.0")
    done = project.run("site.test", "--node", "crag-1", "--json")
    assert json.loads(done.stdout) == {"crag-1": {"1.0.0": "", "tree": ""}}, done.stderr

    roles = project.root / "site/roles.py"
    mark = "def web("
    harm = '    if node.name == "crag-2":\n        import time\n\n'
    harm += '        tools.file("/etc/stamp", str(time.time()))\n\n\n'
    roles.write_text(roles.read_text().replace(f"\n\n{mark}", f"{harm}{mark}"))
    (project.root / "site/inventory.toml").write_text("[nodes.crag-2]\n")
    done = project.run("upload", "--channel", "stable", BELAY_PUBLISH_TESTED="true")
    assert done.returncode == 1
    assert "release 1.0.0, tried on itself: passed" in done.stderr
    assert "a second apply changed /etc" in done.stderr
    assert "so 1.0.0 is not published: tested in [publish] asks for that" in done.stderr
    assert not (project.www / "channels" / "stable").exists()


def test_any_program_can_be_the_site(project: Project, tmp_path: Path) -> None:
    """As it is called, and judged from outside; here progfiguration, as it is on PyPI."""
    site = project.root / "site"
    shutil.rmtree(site)
    shutil.copytree(PROGFIGSITE, site)
    unpack(PROGFIGURATION, tmp_path, site)
    done = project.run("site.test", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == {"crag9": {"tree": ""}}


def unpack(requirement: str, folder: Path, site: Path) -> None:
    """Bring a pinned package of Python without compiled parts, and put its modules into a site."""
    (folder / "requirements.txt").write_text(requirement)
    words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
    words += ["--dest", str(folder), "--requirement", str(folder / "requirements.txt")]
    subprocess.run(words, check=True, timeout=900, stdin=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = Path(*Path(member.name).parts[1:])
            if member.isfile() and inside.is_relative_to("src") and inside.suffix == ".py":
                target = site / inside.relative_to("src")
                target.parent.mkdir(parents=True, exist_ok=True)
                reader = tar.extractfile(member)
                assert reader is not None
                target.write_bytes(reader.read())
