"""Keys, releases, uploads and channels, as the one who publishes uses them."""

from __future__ import annotations

import io
import json
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from getpass import getuser
from pathlib import Path

import pytest

from builder.disk.table import read_table
from builder.vm.hardware import free_port
from tests.programs import program
from tests.project import Project, Published, wait_for_port

pytestmark = pytest.mark.container


@pytest.fixture
def project(published: Published) -> Project:
    return published.project


def refused(project: Project, *words: str, **env: str) -> str:
    """What a task says that must fail; a traceback is never an answer."""
    done = project.run(*words, **env)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


def test_stock_minisign_verifies_what_is_signed(project: Project) -> None:
    minisign = program("minisign")
    manifest = project.www / "releases/1.1.0/manifest.json"
    key = project.root / "rootfs/overlay/etc/belay/keys/release.pub"
    done = subprocess.run(
        [minisign, "-V", "-p", key, "-m", manifest], capture_output=True, text=True, check=True
    )
    assert "Signature and comment signature verified" in done.stdout
    assert "Trusted comment: belay 1.1.0" in done.stdout


def test_a_release_has_all_that_belongs_to_it(project: Project, published: Published) -> None:
    manifest = json.loads((project.www / "releases/1.1.0/manifest.json").read_text())
    files = {
        name: (project.www / "blobs" / blob["sha256"]).read_bytes()
        for name, blob in manifest["files"].items()
    }
    assert sorted(files) == [
        "apk.lock", "changes.json", "disk.img.xz", "prices.json", "sbom.json",
    ]  # fmt: skip
    parts = {part["name"]: part for part in json.loads(files["sbom.json"])["components"]}
    assert parts["busybox"]["purl"].startswith("pkg:apk/alpine/busybox@1.37")
    changes = json.loads(files["changes.json"])
    assert (changes["before"], changes["after"]) == ("1.0.0", "1.1.0")
    assert changes["changed"]["linux-virt"] == ["6.18.38-r0", "6.18.56-r0"]
    (price,) = json.loads(files["prices.json"])
    assert (price["version"], price["whole"]) == ("1.0.0", published.packed("1.1.0"))
    assert price["size"] < price["whole"] / 2
    assert {"boot/vmlinuz", "root/usr/lib/libcrypto.so.3"} <= {name for name, _ in price["files"]}
    with published.slots["1.1.0"].open("rb") as file:
        slot = file.read(1 << 20)
    with lzma.open(io.BytesIO(files["disk.img.xz"])) as disk:
        table = read_table(disk)
        for name in ("slot-a", "slot-b"):  # in their order: each is unpacked up to there
            disk.seek(table[name].offset)
            assert disk.read(len(slot)) == slot, name
    output = project.inv("release.diff", "1.0.0", "1.1.0")
    assert "linux-virt 6.18.38-r0 -> 6.18.56-r0" in output
    assert re.search(
        r"^  from 1\.0\.0: \d+\.\d MB to fetch \(whole: 5\d\.\d MB\); largest: ", output, re.M
    )
    assert "  boot/vmlinuz: " in output and "more files: --json has all" in output
    files = json.loads(project.run("release.diff", "1.0.0", "1.1.0", "--json").stdout)["files"]
    assert files["root/etc/belay/release.json"] == "content"


def test_a_release_is_the_tree_of_its_tag(project: Project) -> None:
    assert "there is no tag v7.0.0; make it: git tag v7.0.0" in refused(
        project, "release", "--tag", "v7.0.0"
    )
    assert "wanted a tag like v1.2.3" in refused(project, "release", "--tag", "seven")
    assert "this tree is not what v1.0.0 names" in refused(project, "release", "--tag", "v1.0.0")
    project.commit("v7.1.0")
    changed = project.root / "changed"
    changed.write_text("not committed\n")
    output = refused(project, "release", "--tag", "v7.1.0")
    changed.unlink()
    assert "changes that no commit holds" in output and "?? changed" in output


def test_the_price_is_known_before_it_is_paid(project: Project, published: Published) -> None:
    """Of this tree: the last release but for one file, in which nodes fetch little else."""
    motd = project.root / "rootfs/overlay/etc/motd"
    before = motd.read_text()
    motd.write_text(f"{before}a word of today\n")
    try:
        done = project.run("release.plan", "--json", BELAY_PUBLISH_DELTAS="2")
        prices = {price["version"]: price for price in json.loads(done.stdout)}
        refusal = refused(
            project, "release.plan", BELAY_PUBLISH_BUDGET_MB="1", BELAY_PUBLISH_DELTAS="2"
        )
    finally:
        motd.write_text(before)
    assert list(prices) == ["1.1.0", "1.0.0"], "the newest first"
    assert prices["1.1.0"]["size"] < 8_000 < prices["1.0.0"]["size"] < 9_500_000
    assert "root/etc/motd" in dict(prices["1.1.0"]["files"])
    assert re.search(
        r"from 1\.0\.0: 8\.\d MB to fetch .*; largest: boot/vmlinuz .*: more than ", refusal
    )
    assert "leave out what costs most, or raise budget_mb" in refusal
    assert len(list(project.store.glob("releases/*"))) == 2, "nothing was released"


def test_a_release_never_changes(project: Project) -> None:
    project.git("tag", "-f", "v1.1.0")
    assert "release 1.1.0 exists already" in refused(project, "release", "--tag", "v1.1.0")


def test_machines_without_a_disk_get_what_a_signed_manifest_names(project: Project) -> None:
    netboot = ("netboot", "--url", "http://crag", "--tag")
    project.commit("v7.2.0")
    assert "there is no release 7.2.0" in refused(project, *netboot, "v7.2.0")
    project.git("checkout", "-q", "v1.1.0")
    try:
        project.inv(*netboot, "v1.1.0")
        other = refused(project, *netboot, "v1.1.0", BELAY_UPDATE_BOOT_S="77")
    finally:
        project.git("checkout", "-q", "-")
    manifest = json.loads((project.www / "releases/1.1.0/manifest.json").read_text())
    script = (project.build / "netboot/boot.ipxe").read_text()
    assert f" belay.sha256={manifest['slot']['sha256']} " in script
    assert "it was built with another config" in other


def test_keys_are_guarded(project: Project, tmp_path: Path) -> None:
    upload = ("upload", "--channel", "beta", "--new", "--to", str(tmp_path), "--unverified")
    assert "the passphrase is wrong" in refused(project, *upload, BELAY_PASSPHRASE="wrong")
    del project.env["BELAY_PASSPHRASE"]
    assert "nobody is there to type it" in refused(project, *upload)
    project.inv(*upload, BELAY_PASSPHRASE_COMMAND="echo four words are enough")
    project.env["BELAY_PASSPHRASE"] = "four words are enough"
    assert "exists already" in refused(project, "key.new")
    assert "has no private key of this image" in refused(project, *upload, BELAY_KEYS="/nowhere")


def test_an_upload_says_beforehand_what_it_would_do(project: Project, tmp_path: Path) -> None:
    words = ("upload", "--channel", "beta", "--new", "--to", str(tmp_path / "www"))
    output = project.inv("--dry", *words)
    assert "/blobs/" in output and output.rstrip().endswith("channel beta: new -> 1.1.0")
    assert not (tmp_path / "www").exists()


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a host that ssh reaches: this one, by a server of its own."""
    sshd = program("sshd")
    client = program("ssh")
    port = free_port()
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    (tmp_path / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {tmp_path}/host\nPidFile none\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nPermitRootLogin yes\n"
    )
    (tmp_path / "ssh_config").write_text(
        f"Host crag\nHostName 127.0.0.1\nPort {port}\nUser {getuser()}\n"
        f"IdentityFile {tmp_path}/user\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n"
        "LogLevel ERROR\n"
    )
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(f'#!/bin/sh\nexec {client} -F {tmp_path}/ssh_config "$@"\n')
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sshd, "-D", "-f", tmp_path / "sshd_config"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_port(port, process)
    yield "crag"
    process.terminate()
    process.wait(60)


def test_uploads_go_over_ssh(project: Project, ssh: str, tmp_path: Path) -> None:
    www = tmp_path / "a www"
    words = (
        "--new",
        "--channel",
        "far",
        "--version",
        "1.1.0",
        "--to",
        f"{ssh}:{www}",
        "--unverified",
    )
    path = os.environ["PATH"]
    assert "channel far has release 1.1.0" in project.inv("upload", *words, PATH=path)
    assert sorted(path.name for path in www.iterdir()) == ["blobs", "channels", "releases"]
    for name in ("manifest.json", "manifest.json.minisig"):
        here, uploaded = project.store / "releases/1.1.0" / name, www / "releases/1.1.0" / name
        assert here.read_bytes() == uploaded.read_bytes()
    assert "\n0 B uploaded" in f"\n{project.inv('upload', *words, PATH=path)}"
    shown = project.inv("channel.show", "--to", f"{ssh}:{www}", "--json", PATH=path)
    assert json.loads(shown)[0]["version"] == "1.1.0"
    output = refused(project, "upload", *words[:-2], f"{ssh}:/proc/none", words[-1], PATH=path)
    assert "crag:/proc/none: ssh failed with exit code 1: mkdir" in output


def test_only_what_is_missing_is_uploaded(project: Project) -> None:
    output = project.upload("--channel", "edge", "--new")
    assert "edge is a new channel" in output and "\n0 B uploaded, with the disk image" in output
    manifest = json.loads((project.www / "releases/1.1.0/manifest.json").read_text())
    mib = manifest["slot"]["blob"]["size"] / (1 << 20)
    assert f"a node fetches {mib:.1f} MiB at most" in output


def test_a_channel_moves_only_to_what_nodes_can_take(project: Project) -> None:
    manifest = json.loads((project.www / "releases/1.1.0/manifest.json").read_text())
    blob = project.www / "blobs" / manifest["slot"]["blob"]["sha256"]
    good = blob.read_bytes()
    blob.write_bytes(good[:-9] + b"corrupted")
    try:
        done = project.run(
            *("upload", "--channel", "night", "--new"),
            BELAY_UPDATE_URL=f"http://127.0.0.1:{project.port}",
        )
    finally:
        blob.write_bytes(good)
    assert done.returncode != 0
    assert "release 1.1.0: " in done.stderr
    assert not (project.www / "channels/night").exists()
    assert "url in [update]" in refused(
        project, "upload", "--channel", "night", "--new", BELAY_UPDATE_URL=""
    )


def test_a_channel_goes_back_only_by_an_order(project: Project) -> None:
    project.upload("--channel", "back", "--new")
    older = ("upload", "--channel", "back", "--version", "1.0.0", "--unverified")
    assert "which is newer than 1.0.0" in refused(project, *older)
    project.inv(*older, "--downgrade")
    shown = project.inv("channel.show", "--json")
    channels = {channel["channel"]: channel for channel in json.loads(shown)}
    assert (channels["back"]["version"], channels["back"]["downgrade"]) == ("1.0.0", True)


@pytest.mark.parametrize("name", ["bad name", "../up", "Stable", "stable.site", ""])
def test_a_channel_has_a_name_that_nodes_take(project: Project, name: str) -> None:
    for words in (
        ("upload", "--channel", name, "--unverified", "--new"),
        ("site.publish", "--channel", name, "--new"),
        ("channel.promote", "stable", name, "--new"),
    ):
        assert f'"{name}" is no name for a channel; wanted' in refused(project, *words)
    assert not list((project.www / "channels").glob("*name*"))


@pytest.mark.parametrize("days", ["0", "-3", "x", "1.5", "99999"])
def test_a_channel_is_valid_for_a_day_at_least(project: Project, days: str) -> None:
    wanted = f'--days: found "{days}", wanted a whole number from 1 to 3650'
    assert wanted in refused(project, "upload", "--channel", "stable", "--days", days)
    assert wanted in refused(project, "channel.promote", "stable", "stable", "--days", days)


def test_a_mistyped_channel_makes_no_new_one(project: Project) -> None:
    before = sorted(path.name for path in (project.www / "channels").iterdir())
    for words in (
        ("upload", "--channel", "stabel", "--unverified"),
        ("site.publish", "--channel", "stabel"),
        ("channel.promote", "stable", "stabel"),
    ):
        output = refused(project, *words)
        assert "has no channel stabel; it has: " in output
        assert "did you mean stable? to make a new one: --new" in output
    assert sorted(path.name for path in (project.www / "channels").iterdir()) == before


def test_the_channel_for_which_nodes_ask_is_no_mistake(project: Project, tmp_path: Path) -> None:
    options = ("--to", str(tmp_path / "www"), "--unverified")
    assert "night is a new channel of" in project.inv(
        "upload", "--channel", "night", *options, BELAY_UPDATE_CHANNEL="night"
    )


def test_one_bad_file_hides_no_channel(project: Project, tmp_path: Path) -> None:
    www = tmp_path / "www"
    options = ("--to", str(www))
    project.inv("upload", "--channel", "stable", "--unverified", *options)
    assert "valid" in project.inv("channel.show", *options)
    (www / "channels/bad name").write_text("what is this\n")
    (www / "channels/aged").write_bytes((www / "channels/stable").read_bytes())
    done = project.run("channel.show", *options, "--json")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    shown = {channel["channel"]: channel for channel in json.loads(done.stdout)}
    assert sorted(shown) == ["aged", "bad name", "stable"]
    assert (shown["stable"]["version"], shown["stable"]["state"]) == ("1.1.0", "valid")
    assert "the server gave channel stable instead" in shown["aged"]["state"]
    assert "remove channels/bad name there" in shown["bad name"]["state"]


def test_a_site_never_changes_and_never_gets_older(project: Project, tmp_path: Path) -> None:
    publish = ("site.publish", "--channel", "stable", "--to", str(tmp_path / "www"))
    version, roles = (project.root / "site" / name for name in ("version", "roles.py"))
    before = version.read_text(), roles.read_text()
    try:
        project.inv(*publish)
        project.inv(*publish)  # the same once more: it is valid for longer
        roles.write_text(f"{before[1]}\n# changed\n")
        assert "a version never changes; raise the version" in refused(project, *publish)
        version.write_text("9.0.0\n")
        project.inv(*publish)
        version.write_text("8.0.0\n")
        assert "has site 9.0.0, which is newer than 8.0.0" in refused(project, *publish)
    finally:
        version.write_text(before[0])
        roles.write_text(before[1])


def test_a_release_is_promoted(project: Project) -> None:
    project.upload("--channel", "beta", "--new", "--version", "1.1.0")
    promote = ("channel.promote", "beta", "calm")
    assert "it has: " in refused(project, *promote)
    # A machine that never made the release.
    output = project.inv(*promote, "--new", BELAY_STORE="/nowhere")
    assert "channel calm has release 1.1.0" in output
    channels = (project.www / "channels" / name for name in promote[1:])
    beta, calm = (json.loads(path.read_text().splitlines()[0]) for path in channels)
    assert beta["manifest"] == calm["manifest"]
    assert "has no channel gamma" in refused(project, "channel.promote", "gamma", "calm")


def test_a_release_is_verified_byte_by_byte(project: Project) -> None:
    project.inv("release.verify", "1.1.0")
    manifest = json.loads((project.store / "releases/1.1.0/manifest.json").read_text())
    blob = project.store / "blobs" / manifest["files"]["sbom.json"]["sha256"]
    good = blob.read_bytes()
    blob.write_bytes(good.replace(b"busybox", b"busybux"))
    output = refused(project, "release.verify", "1.1.0")
    blob.write_bytes(good)
    assert "sbom.json" in output and "is corrupt" in output


# Runs `inv` where machines of one architecture don't keep a release, without the machines.
UNHEALTHY = """
import runpy, sys
from builder.core.errors import UserError
from builder.vm import site_trial

def require_tested(config, store, version):
    if config.alpine.arch == "x86_64":
        raise UserError("x86_64 is unhealthy")
    print(config.alpine.arch, "is healthy", file=sys.stderr)

site_trial.require_tested = require_tested
sys.path.insert(0, ".")
runpy.run_path("tasks.py", run_name="__main__")
"""


def test_one_release_is_of_all_architectures(tmp_path: Path) -> None:
    """Made and published by one command each, and kept apart on the server."""
    project = Project(tmp_path, 1)
    names = ["aarch64", "x86_64"]
    config = project.root / "image.toml"
    config.write_text(config.read_text().replace('arch = "x86_64"', f"arch = {json.dumps(names)}"))
    project.inv("lock", "--upgrade", "grub-bios")  # one of them alone has that
    for name, lock in zip(names, ("apk-aarch64.lock", "apk.lock"), strict=True):
        assert f'arch = "{name}"' in (project.root / lock).read_text()
    # One that is lost begins with what was committed of it.
    own = project.root / "apk-aarch64.lock"
    own.write_text(own.read_text().replace("[users]\n", "[users]\napp = 777\n"))
    project.commit("numbers")
    own.unlink()
    project.inv("lock")
    assert "\napp = 777\n" in own.read_text()
    project.commit("v1.0.0")
    made = json.loads(project.run("release", "--tag", "v1.0.0", "--json").stdout)
    assert [manifest["arch"] for manifest in made] == names
    assert "release 1.0.0 exists already" in refused(project, "release", "--tag", "v1.0.0")

    words = ("upload", "--channel", "stable", "--unverified")
    done = subprocess.run(
        [project.root / ".venv/bin/python", "-c", UNHEALTHY, *words],
        env={**project.env, "BELAY_PUBLISH_TESTED": "true"}, cwd=project.root,
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert "aarch64 is healthy\nx86_64 is unhealthy" in done.stderr
    assert not list(project.www.rglob("*")), "those of the one don't get it without the other"
    pointers = json.loads(project.run(*words, "--json").stdout)
    assert [pointer["version"] for pointer in pointers] == ["1.0.0"] * 2
    assert pointers[0]["manifest"] != pointers[1]["manifest"]
    shown = json.loads(project.inv("channel.show", "--json"))
    assert [row["arch"] for row in shown if row["channel"] == "stable"] == names
    project.inv("channel.promote", "stable", "calm", "--new")
    for name, folder in zip(names, ("aarch64", ""), strict=True):
        server = project.www / folder
        manifest = json.loads((server / "releases/1.0.0/manifest.json").read_text())
        assert manifest["arch"] == name
        assert (server / "blobs" / manifest["slot"]["blob"]["sha256"]).exists()
        assert sorted(path.name for path in (server / "channels").iterdir()) == ["calm", "stable"]

    # Somebody puts the one in the place of the other.
    release = project.store / "aarch64/releases/1.0.0"
    shutil.rmtree(release)
    shutil.copytree(project.store / "releases/1.0.0", release)
    assert "1.0.0 in" in (said := refused(project, *words)) and "is for x86_64" in said

    # One of them could not be made, and what stood in the way was mended in another commit.
    shutil.rmtree(release)
    assert "there is no release 1.0.0 in" in refused(project, *words)
    project.git("tag", "--delete", "v1.0.0")
    project.env["GIT_COMMITTER_DATE"] = "2026-02-02T00:00:00Z"
    project.commit("v1.0.0")
    said = refused(project, "release", "--tag", "v1.0.0")
    assert "release 1.0.0 for x86_64 exists already, of another commit" in said
    project.inv("release", "--tag", "v1.0.0", BELAY_ALPINE_ARCH="aarch64")
    said = refused(project, *words)
    assert "release 1.0.0 is of one commit for aarch64, and of another for others" in said
