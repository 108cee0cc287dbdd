"""One image, many nodes: what makes each itself, and what is wrong with that."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from builder.core.config import load_config
from builder.core.files import copy_sparse
from builder.disk.boot_state import read_boot_state, write_boot_state
from builder.disk.layout import SECTOR
from builder.disk.table import read_table
from builder.vm.hardware import free_port
from builder.vm.machine import Machine
from tests.apkovl import archive, entry
from tests.conftest import InContainer
from tests.project import Project
from tests.write_log import writes
from updater.contract import BAD, GOOD, TRIES

pytestmark = pytest.mark.vm(minutes=2)

MIB = 1 << 20
HEADER_CHECKSUM = 16  # where it lies in the header of a table
QEMU_MAC = "52:54:00:12:34:56"
TABLE = 34 * SECTOR  # what the first partition table takes, and a little more than the second


@pytest.fixture(scope="module")
def project(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A clone of the project; nothing serves its releases."""
    yield Project(tmp_path_factory.mktemp("nodes"), free_port())


@dataclass
class Ssh:
    """Runs commands on a node as its owner does, over one connection for each of its boots."""

    machine: Machine
    folder: Path  # with `key`, and `known` in which the node's own key is

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the last word as a command; those before it are options, which come first."""
        options = {
            "Port": self.machine.ssh_port(),
            "IdentityFile": "key",
            "UserKnownHostsFile": "known",
            "StrictHostKeyChecking": "yes",
            "HostKeyAlias": "node",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": 120,
            "ControlMaster": "auto",
            "ControlPath": "to-%p",  # a path of a socket may have 107 characters only
            "ControlPersist": "yes",  # it ends with the machine
        }
        given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        with (self.folder / "output").open("w+") as output:  # a pipe would stay open
            done = subprocess.run(
                ["ssh", "-F", "none", *words[:-1], *given, "root@127.0.0.1", words[-1]],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                text=True, check=False, timeout=600,
            )  # fmt: skip
            output.seek(0)
            done.stdout = output.read()
        return done

    def succeed(self, command: str) -> str:
        """Run a command that must succeed; its output."""
        done = self.run(command)
        assert done.returncode == 0, f"{command!r} failed: {done.stdout}"
        return done.stdout

    def fail(self, command: str) -> str:
        """Run a command that must fail; its output."""
        done = self.run(command)
        assert done.returncode not in (0, 255), f"{command!r} was to fail: {done.stdout}"
        return done.stdout

    def wait_until_confirmed(self) -> None:
        """Wait until the node can be reached, and its health checks are through."""
        self.machine.wait_for_console("OpenRC .* is starting up")
        self.machine.wait_until(lambda: not self.run("true").returncode, 600)
        self.succeed("until [ -e /run/belay/confirmed ]; do sleep 1; done")


def new_node(project: Project, folder: Path, name: str, *words: str) -> None:
    """Make a node which `folder/key` opens, and whose own key is in `folder/known`."""
    key, known = folder / "key", folder / "known"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    output = project.inv("node.new", name, "--keys", f"{key}.pub", *words)
    host_key = next(line.split(None, 2)[2] for line in output.splitlines() if "host key" in line)
    known.write_text(f"node {host_key}\n")


def test_a_node_is_itself_and_fills_its_disk(project: Project, tmp_path: Path) -> None:
    """Named, reached by its keys alone, its data as large as the disk; safe at any power cut."""
    new_node(project, tmp_path, "crag-7")
    log = tmp_path / "writes"
    own = project.root / "nodes/crag-7"
    (own / "mactab").write_text(f"lan0 {QEMU_MAC}\n")
    (own / "interfaces").write_text(
        "auto lo\niface lo inet loopback\n\nauto lan0\niface lan0 inet dhcp\n"
    )
    logs = LogHost()
    (own / "settings.json").write_text(json.dumps({"log": f"udp://10.0.2.2:{logs.port}"}))
    project.inv("key.packages")
    settings = {"BELAY_ALPINE_AVAILABLE": "curl", "BELAY_LOGIN_SERIAL": "false"}
    project.inv("node.image", "crag-7", **settings)

    machine = Machine(project.build / "crag-7.img", tmp_path / "machine", bios=True, write_log=log)
    node, first = Ssh(machine, tmp_path), tmp_path / "first"
    with machine.disk.open("r+b") as disk:
        disk.truncate(machine.disk.stat().st_size + 1024 * MIB)
    shutil.copy(machine.disk, first)
    with machine:
        with machine.stage("its first boot"):
            node.wait_until_confirmed()
            assert node.succeed("hostname") == "crag-7\n"
            assert "node crag-7" in (status := node.succeed("belay status"))
            assert "warning" not in status
            _, total = node.succeed("df -m /data | tail -n 1").split()[:2]
            assert int(total) > 1000
            assert "inet 10.0.2.15" in node.succeed("ip addr show lan0")
            alone = ("-o", "ControlPath=none", "-o", "PubkeyAuthentication=no")
            assert "Permission denied (publickey)" in node.run(*alone, "true").stdout
            assert node.fail("pgrep -f ttyS0") == ""
            assert "login:" not in machine.log.read_text()
            logs.has_all_of(node)
        with machine.stage("offline packages and its own files"):
            offline_packages_are_installed(node)
            its_files_are_written_from_afar(project, node)
        with machine.stage("a torn partition table, and a copy of the disk"):
            node.succeed("sync")
            machine.power_cut()
            assert not guids_of(first) & guids_of(machine.disk), "those of the image are gone"
            every_moment_had_a_table(first, log)
            # The first table's entries are newer than its header, as a cut leaves them: GRUB looks
            # at no checksum, the kernel takes the second table, and the node writes both anew.
            with machine.disk.open("r+b") as disk:
                disk.seek(SECTOR + HEADER_CHECKSUM)
                disk.write(bytes(4))
            a_copy_of_the_disk_is_left_alone(node)
            node.succeed("dmesg | grep 'GPT is invalid, using'")
            assert node.succeed("df -m /data | tail -n 1").split()[1] == total
            with machine.disk.open("rb") as disk:
                assert read_table(disk)["data"].end > 1024 * MIB
        with machine.stage("eight power cuts"):
            power_that_comes_and_goes_ends_in_a_rescue(node)


class LogHost:
    """A host that takes logs by syslog, as they come: a socket has room for few."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._seen: list[bytes] = []
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while True:
            self._seen.append(self._socket.recv(65536))

    def has_all_of(self, node: Ssh) -> None:
        """What the kernel said from the start, and what programs say now."""
        node.succeed("logger -t crag hello")
        wanted = b"belay: started openrc", b"belay: started syslog", b"crag: hello"
        node.machine.wait_until(
            lambda: all(any(text in line for line in self._seen) for text in wanted), 600
        )
        # Before and after the service that sends it takes syslogd's place again.
        again = "for _ in 1 2 3 4 5; do logger -t crag again; sleep 2; done"
        node.succeed(f"rc-service syslog restart; {again}")
        node.machine.wait_until(lambda: any(b"crag: again" in line for line in self._seen), 600)
        assert "crashed" not in node.succeed("rc-status boot; rc-status default")
        assert "crag: hello" in node.succeed("cat /var/log/messages")


def power_that_comes_and_goes_ends_in_a_rescue(node: Ssh) -> None:
    """Which can be reached as ever, says why, and is a rescue no more as all is well in it."""
    machine = node.machine
    machine.power_cut()
    write_boot_state(machine.disk, read_boot_state(machine.disk).with_slot("b", BAD))
    for _ in range(TRIES[GOOD]):
        machine.start()
        machine.wait_for_console(r"belay: booting slot a \(good\)")
        machine.power_cut()
    machine.start()
    machine.wait_for_console(r"belay: booting slot a \(rescue\)")
    node.wait_until_confirmed()
    output = node.succeed("belay status")
    assert "this boot is a rescue: no slot had a try left: their boots hung" in output
    assert f"slot a: good, {TRIES[GOOD]} tries left" in output
    assert "rescue" in node.succeed("belay history")


def its_files_are_written_from_afar(project: Project, node: Ssh) -> None:
    """By SSH, into the partition of the disk that it runs from; what makes no sense is refused."""
    folder, machine = node.folder, node.machine
    assert "is no volume labelled BELAY" in node.fail("echo x | belay node --write - 2>&1")
    new = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA second"
    (folder / "second.pub").write_text(f"{new}\n")
    (folder / "config").write_text(
        f"Host crag-7\nHostName 127.0.0.1\nPort {machine.ssh_port()}\nHostKeyAlias node\n"
        f"IdentityFile {folder}/key\nUserKnownHostsFile {folder}/known\n"
    )
    program = folder / "bin/ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    words = ("node.write", "crag-7", "--keys", str(folder / "second.pub"), "--to", "crag-7")
    assert "crag-7: has the node's files" in project.inv(*words, PATH=path)
    with machine.disk.open("rb") as disk:
        partition = read_table(disk)["node"]
        disk.seek(partition.offset)
        assert new.encode() in disk.read(partition.end - partition.offset)
    assert "node files" in node.succeed("belay history")
    assert "node crag-7, from the files: age.key" in node.succeed("belay node")
    # The first test of the next boot is that the old key still opens it.
    words = ("node.write", "crag-7", "--keys", str(folder / "key.pub"), "--to", "crag-7")
    project.inv(*words, PATH=path)


def offline_packages_are_installed(node: Ssh) -> None:
    """Without any mirror; but only what is as it was signed."""
    node.fail("apk info -e curl")
    node.succeed("apk add curl && curl --version && modprobe dummy")
    # Not one that was changed since it was signed, nor one of an index that a stranger signed.
    node.succeed("apk del curl && cp -r /usr/share/belay/packages /run/changed")
    change = "printf x | dd of=$(echo */curl-*.apk) bs=1 seek=5000 conv=notrunc"
    node.succeed(f"cd /run/changed && {change}")
    changed = "--repositories-file /dev/null --no-network --repository /run/changed"
    assert "ERROR: curl-" in node.fail(f"apk add {changed} curl 2>&1")
    node.succeed("mv /lib/apk/keys/belay-*.pub /run/")
    assert "UNTRUSTED signature" in node.fail("apk add curl 2>&1")
    node.fail("command -v curl")


def a_copy_of_the_disk_is_left_alone(node: Ssh) -> None:
    """It is in the machine, too, at the next boot, and the same to its last GUID."""
    machine, twin = node.machine, node.folder / "twin.img"
    copy_sparse(machine.disk, twin)
    before = digest_of(twin)
    second = ("-drive", f"if=virtio,format=raw,file={twin}")
    machine.hardware = replace(machine.hardware, extra=second)
    machine.start()
    node.wait_until_confirmed()
    assert "warning: vdb3 has the GUID of the slot that runs, too" in node.succeed("belay status")
    node.succeed("grep '^/dev/vda6 /data ' /proc/mounts")
    assert digest_of(twin) == before
    machine.hardware = replace(machine.hardware, extra=())


def guids_of(disk: Path) -> set[bytes]:
    """The GUIDs in the first partition table: of the disk, and of each partition."""
    with disk.open("rb") as file:
        table = file.read(TABLE)
    entries = range(2 * SECTOR, 2 * SECTOR + 6 * 128, 128)
    return {table[SECTOR + 56 : SECTOR + 72], *(table[at + 16 : at + 32] for at in entries)}


def digest_of(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def every_moment_had_a_table(disk: Path, log: Path) -> None:
    """Had power been lost after any write, the kernel would have found all partitions."""
    with disk.open("rb") as file:
        before = read_table(file)
    slots = {name: partition for name, partition in before.items() if name != "data"}
    size, ends = disk.stat().st_size, set()
    with disk.open("r+b") as file:
        for write in writes(log):
            file.seek(write.offset)
            file.write(write.data)
            if TABLE <= write.offset < size - TABLE:
                continue
            try:
                table = read_table(file)
            except ValueError:
                table = read_table(file, size - SECTOR)
            ends.add(table.pop("data").end)
            assert table == slots, f"after a write at byte {write.offset}"
    assert len(ends) == 2, "it grew, at once"


@pytest.fixture
def broken_stick(tmp_path: Path) -> Path:
    """A stick on which each file is wrong in another way."""
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "name").write_text("no/name\n")
    (stick / "interfaces").write_bytes(bytes(MIB))
    (stick / "mactab").write_text("eth0 is the left one\n")
    (stick / "authorized_keys").write_text("")
    (stick / "dropbear_ed25519_host_key").write_bytes(b"\0" * 83)
    (stick / "age.key").mkdir()
    (stick / "settings.json").write_text("{")
    return stick


def test_what_is_wrong_with_a_stick_is_said(
    disk_image: Path, broken_stick: Path, tmp_path: Path
) -> None:
    """And stops neither the boot nor updates."""
    with Machine(disk_image, tmp_path / "machine", bios=True, usb=broken_stick) as machine:
        with machine.stage("a stick with everything wrong"):
            machine.wait_for_console("name is not what its name says: ignored")
            machine.wait_for_login()
            machine.wait_until_confirmed()
            status = machine.succeed("belay status")
            for text in (
                "interfaces has 1048576 bytes, and may have 65536: ignored",
                "mactab is not what its name says: ignored",
                "authorized_keys is empty: ignored",
                "dropbear_ed25519_host_key is not what its name says: ignored",
                "age.key is empty: ignored",
                "settings.json is no JSON object, and is ignored: ",
                "this node has no name",
            ):
                assert text in status
            assert machine.succeed("ls /run/belay/node") == "settings.json\n"
            machine.fail("pidof dropbear")
        with machine.stage("two volumes of one label"):
            good = tmp_path / "good"
            good.mkdir()
            (good / "name").write_text("crag-8\r\n")
            machine.attach_usb(good, "BELAY")
            machine.wait_until_succeeds("blkid | grep -c 'LABEL=\"BELAY\"' | grep -q 3")
            again = "rm /run/belay/warnings; rc-service --nodeps belay-node restart"
            assert "several volumes are labelled BELAY: /dev/sd" in machine.succeed(again)
            machine.detach_usb("stick")
            machine.wait_until_succeeds("blkid | grep -c 'LABEL=\"BELAY\"' | grep -q 2")
            machine.succeed(again)
            assert "node crag-8" in (status := machine.succeed("belay status"))
            assert "warning" not in status
        with machine.stage("a volume of garbage"):
            # Garbage with the right label: what blkid looks at is there, the rest isn't.
            garbage = "dd if=/dev/urandom of=/dev/vda5 bs=1k seek=2 count=200 && sync"
            machine.detach_usb()
            machine.succeed(garbage)
            assert "this node has no name" in machine.succeed(f"rm -r /run/belay/node; {again}")


def test_a_stick_that_is_pulled_out_during_boot_stops_nothing(
    disk_image: Path, tmp_path: Path
) -> None:
    """Before it was read, while, or after: that is a race; the node is well in any case."""
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "name").write_text("crag-9\n")
    with Machine(disk_image, tmp_path / "machine", bios=True, usb=stick) as machine:
        machine.wait_for_console("OpenRC .* is starting up")
        machine.detach_usb("stick")
        machine.wait_for_login()
        machine.wait_until_confirmed()
        status = machine.succeed("belay status")
        assert ("node crag-9" in status) != ("this node has no name" in status)
        assert f"slot a: good, {TRIES[GOOD]} tries left" in status
        assert machine.fail("rc-status --crashed") == ""


def test_an_overlay_archive_from_data_makes_the_system(
    project: Project, in_container: InContainer, tmp_path: Path
) -> None:
    """As `lbu` makes them: what is in it is there after the boot, packages and services too."""
    in_slot = project.root / "rootfs/overlay/usr/share/belay/apkovl"
    in_slot.mkdir(parents=True)
    (in_slot / "absolute.apkovl.tar.gz").write_bytes(archive(entry("/etc/shadow")))
    project.inv("image", BELAY_BOOT_CMDLINE=f"{load_config().boot.cmdline} apkovl=auto")
    files = tmp_path / "data/apkovl"
    files.mkdir(parents=True)
    overlay = archive(
        entry("root", tarfile.DIRTYPE),
        entry("etc/runlevels/default/networking", tarfile.SYMTYPE, "/etc/init.d/networking"),
        etc__motd="from data\n",
        etc__hostname="nocrag\n",
        **{"etc__conf.d__belay-data": "[ -e /run/failed ] || { touch /run/failed; exit 1; }\n"},
    )
    (files / "good.apkovl.tar.gz").write_bytes(overlay)
    hostile = archive(entry("etc/../../shadow"), etc__motd="hostile\n")
    (files.parent / "dots.apkovl.tar.gz").write_bytes(hostile)
    (files.parent / "truncated.apkovl.tar.gz").write_bytes(overlay[:150])
    in_container("mke2fs -q -t ext4 -d in/data out/data 64M", data=files.parent)
    machine = Machine(project.build / "disk.img", tmp_path / "machine", bios=True)
    with machine.disk.open("r+b") as disk:
        disk.seek(read_table(disk)["data"].offset)
        disk.write((tmp_path / "container output/data").read_bytes())
    with machine:
        with machine.stage("a good archive"):
            machine.wait_for_console("belay: applied an apkovl")
            machine.wait_for_login()
            machine.wait_until_confirmed()
            assert machine.succeed("cat /etc/motd; hostname") == "from data\nnocrag\n"
            assert machine.succeed("stat -c %a /root") == "700\n"
            machine.fail("ls /etc/runlevels/boot/syslog")
            # What belay-boot couldn't start, OpenRC started.
            machine.succeed(
                "ls /run/failed /run/openrc/started/belay-data && df /data | grep -q vda6"
            )
            machine.succeed("ls /etc/runlevels/default/belay-pull")
        with machine.stage("archives that harm"):
            # In each place is one that harms, and none is applied; others: container/test_init.py.
            pack = ".apkovl.tar.gz"
            machine.succeed(
                f"rm /data/apkovl/*{pack} && mv /data/truncated{pack} /data/apkovl && "
                f"mount /dev/vda5 /mnt && mv /data/dots{pack} /mnt && umount /mnt && sync"
            )
            machine.type("reboot\n")
            machine.wait_for_console(f"apkovl truncated{pack} is not applied: it is damaged")
            machine.wait_for_login()
            status = machine.succeed("belay status")
            for name, reason in (
                ("truncated", "is damaged"),
                ("dots", "has paths that lead out of it"),
                ("absolute", "has paths that lead out of it"),
            ):
                assert f"apkovl {name}{pack} is not applied: it {reason}" in status
            machine.fail("grep -E 'data|hostile' /etc/motd")
