"""A mistake of the user gets a sentence: what is wrong and where. A traceback is for a bug."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pexpect
import pytest

from builder.core.arch import AARCH64
from builder.core.errors import UserError
from builder.core.paths import PROJECT
from builder.engines.bubblewrap import bwrap_path
from builder.engines.emulation import is_registered
from builder.nodes.places import open_place
from builder.sample.mirror import sample_mirror
from tests.inv import Inv
from tests.mirror import Mirror

pytestmark = pytest.mark.container

NUMBERS = {
    "clean --older abc": '--older: found "abc", wanted a whole number of days from 1 to 36500',
    "clean --older -5": '--older: found "-5", wanted a whole number of days from 1',
    "clean --keep 1.5": '--keep: found "1.5", wanted a whole number of MiB from 1',
    "clean --keep -1": '--keep: found "-1", wanted a whole number of MiB from 1',
    "qemu --memory abc": '--memory: found "abc", wanted a whole number of MiB from 128',
    "qemu --memory 5": '--memory: found "5", wanted a whole number of MiB from 128',
    "netboot --url http://x --serve abc": '--serve: found "abc", wanted a whole number from 1 to',
    "bench build --times 0": '--times: found "0", wanted a whole number from 1 to 99',
}
WORDS = {
    "imgae": 'there is no task "imgae"; did you mean "image"? ./inv lists them all',
    "imgae --help": 'there is no task "imgae"; did you mean "image"?',
    "image --froce": './inv image doesn\'t know "--froce"; did you mean "--force"?',
    "image qemuu": './inv image doesn\'t know "qemuu"; did you mean "qemu"?',
    "image --slto": './inv image doesn\'t know "--slto"; see: ./inv image --help',
    "upload --chanel stable": './inv upload doesn\'t know "--chanel"; did you mean "--channel"?',
    "release --tga v1.0.0": './inv release doesn\'t know "--tga"; did you mean "--tag"?',
    "node.new --key x crag-9": './inv node.new doesn\'t know "--key"; did you mean "--keys"?',
    "--dry clean": "./inv clean knows no --dry; nothing was done",
    "--dry key.new": "./inv key.new knows no --dry; nothing was done",
    "release": "./inv release wants --tag: the git tag of the release",
    "upload --unverified": "./inv upload wants --channel: the channel",
    "channel.promote": "wants --source: the channel that has the release, such as beta; and --tar",
    "qemu --slot": "--slot: a value is missing; see: ./inv qemu --help",
    "graph --format png": '--format: there is no "png"; there are: dot, mermaid, svg',
    "node.new crag-9 --usb /dev/sdzz": "/dev/sdzz: there is no such folder or device; plug the",
    "node.new crag-9 --usb /nope": "/nope: there is no such folder or device; plug the stick in",
    "node.new two.words": '"two.words" is no name for a node; wanted up to 63 letters, digits',
    "node.write crag-9 --to /tmp": "there are no files of a node; inv node.new crag-9 makes them",
    "shell knot": 'there is no step "knot"; there are: chroot',
}
PLACES = {
    "BELAY_CACHE": ("image",),
    "BELAY_OUTPUT": ("image",),
    "BELAY_KEYS": ("key.new", "--name", "mine"),
}


@pytest.fixture
def inv(tmp_path: Path, mirror: Mirror) -> Inv:
    return Inv(tmp_path, mirror)


@pytest.mark.parametrize("command", [*NUMBERS, *WORDS])
def test_it_is_told_what_was_found_and_wanted(inv: Inv, command: str) -> None:
    inv.build.mkdir()
    (inv.build / "precious").touch()
    assert {**NUMBERS, **WORDS}[command] in inv.fails(*command.split())
    assert (inv.build / "precious").exists(), "nothing is done by half an order"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("qemu --bios", "--bios: aarch64 machines have no BIOS"),
        ("qemu --netboot", "machines of aarch64 don't boot from the network yet"),
        ("netboot --url http://127.0.0.1", "machines of aarch64 don't boot from the network yet"),
    ],
)
def test_what_another_architecture_has_not_is_named(inv: Inv, command: str, message: str) -> None:
    assert message in inv.fails(*command.split(), BELAY_ALPINE_ARCH=AARCH64.name)


@pytest.fixture
def inv_aarch64(tmp_path: Path) -> Iterator[Inv]:
    mirror = Mirror(sample_mirror("3.23", AARCH64.name))
    inv = Inv(tmp_path / "other", mirror)
    inv.env["BELAY_ALPINE_ARCH"] = AARCH64.name
    yield inv
    mirror.close()


def test_a_package_that_another_architecture_has_not_is_named(inv_aarch64: Inv) -> None:
    output = inv_aarch64.fails("lock", BELAY_BOOT_PACKAGES="grub-bios")
    assert "image.toml: the mirror has no package grub-bios for aarch64" in output


def test_a_lock_of_another_architecture_is_refused(inv: Inv) -> None:
    """As where somebody gave a copy of it the other's name: the numbers of users are in the own."""
    inv.succeeds("lock")
    lock = inv.lock.with_name(f"apk-{AARCH64.name}.lock")
    shutil.copy(inv.lock, lock)
    output = inv.fails("image", BELAY_ALPINE_ARCH=AARCH64.name)
    assert f"{lock.name}: is of x86_64, wanted aarch64; bring back that of aarch64: git" in output
    assert lock.read_bytes() == inv.lock.read_bytes()


def test_a_mirror_without_the_architecture_is_named(inv: Inv) -> None:
    output = inv.fails("lock", BELAY_ALPINE_ARCH=AARCH64.name)
    assert "main/aarch64/APKINDEX.tar.gz: the mirror answers: 404" in output
    assert "or the repository has no such architecture" in output


def test_docker_says_that_it_runs_no_such_programs(inv: Inv) -> None:
    if is_registered(AARCH64):
        pytest.skip("this machine runs programs of aarch64, in docker, too")
    env = {"BELAY_ALPINE_ARCH": AARCH64.name, "BELAY_BUILD_ENGINE": "docker"}
    output = inv.fails("image", **env)
    assert 'engine = "bubblewrap"' in output and "no programs of aarch64" in output


@pytest.mark.parametrize("variable", PLACES)
def test_a_place_that_cannot_be_written_is_named(inv: Inv, tmp_path: Path, variable: str) -> None:
    """As root too: a file is where a folder is wanted."""
    (tmp_path / "a file").touch()
    path = f"{tmp_path}/a file/below"
    assert f"{tmp_path}/a file" in inv.fails(
        *PLACES[variable], **{variable: path, "BELAY_PASSPHRASE": "four words are enough"}
    )


def test_a_checkout_that_cannot_be_written_is_named(inv: Inv) -> None:
    """It is read-only, as on a mounted archive."""
    done = subprocess.run(
        [
            *(bwrap_path(), "--die-with-parent", "--dev-bind", "/", "/"),
            *("--ro-bind", PROJECT, PROJECT, PROJECT / "inv", "node.new", "crag-1"),
        ],
        env=inv.env, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{PROJECT}/nodes: it lies on a file system that can't be written" in done.stderr


def test_a_port_that_is_taken_is_named(inv: Inv, mirror: Mirror) -> None:
    port = mirror.url.rpartition(":")[2]
    output = inv.fails("netboot", "--url", "http://127.0.0.1", "--serve", port)
    assert f"port {port} can't be served: Address already in use; take another" in output


def test_the_end_of_the_input_is_no_answer(inv: Inv, tmp_path: Path) -> None:
    env = {**inv.env, "BELAY_KEYS": str(tmp_path / "keys")}
    env.pop("BELAY_PASSPHRASE", None)
    console = pexpect.spawn(
        str(PROJECT / "inv"), ["key.new", "--name", "two"], env=env, encoding="utf-8", timeout=60
    )
    console.expect("passphrase for the new key two: ")
    console.sendeof()
    console.expect("the input ended where an answer was wanted")
    console.expect(pexpect.EOF)
    console.close()
    assert console.exitstatus == 1 and "Traceback" not in str(console.before)
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ("--list >/dev/full", "the output can't be written: No space left on device\ncode 1\n"),
        ("--list >&-", "code 0\n"),
        ("help image >/dev/null", "code 0\n"),
    ],
)
def test_an_output_that_cannot_be_written(words: str, output: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{PROJECT}/inv {words}; echo code $? >&2"],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stderr == output


def test_ctrl_c_while_all_is_imported_has_no_traceback(inv: Inv) -> None:
    """Python catches Ctrl-C as soon as it runs; `tasks.py` lets it go until all is there."""
    ended = 0
    for _ in range(5):
        process = subprocess.Popen(
            [PROJECT / "inv", "--list"], env=inv.env, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        caught = False
        while process.poll() is None and not (caught and not catches(process.pid)):
            caught = caught or catches(process.pid)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        _, output = process.communicate(timeout=60)
        assert output == ""
        ended += process.returncode == -signal.SIGINT
    assert ended, "it was met in the middle at least once"


def catches(pid: int) -> bool:
    """Whether a process has a handler for Ctrl-C."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    mask = next((line.split()[1] for line in status.splitlines() if "SigCgt" in line), "0")
    return bool(int(mask, 16) & 1 << signal.SIGINT - 1)


def test_a_disk_image_of_the_cache_takes_no_keys(inv: Inv) -> None:
    """It is in build/ by a link, and in every image that has the same inputs."""
    inv.succeeds("image")
    image = (inv.build / "disk.img").resolve()
    before = image.stat().st_mtime_ns
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(UserError, match=r"leads into the cache.* make an image for this node"),
    ):
        patch.setattr("builder.nodes.places.CACHE", inv.cache)
        open_place(str(inv.build / "disk.img"))
    assert image.stat().st_mtime_ns == before


def test_who_reads_may_go_away() -> None:
    words = f"{PROJECT}/inv --list; echo code $? >&2"
    done = subprocess.run(
        ["sh", "-c", f"{{ {words}; }} | :"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stderr in ("code 141\n", "code 0\n"), "no traceback, and no word of a broken pipe"


def test_two_forced_builds_at_once_both_succeed(inv: Inv) -> None:
    inv.succeeds("image")
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            builds = [pool.submit(inv, "image", "--force") for _ in range(2)]
            for build in builds:
                assert build.result().returncode == 0, build.result().stderr
    assert not list(inv.cache.rglob(".partial*"))


def test_the_disk_that_is_full_is_the_one_that_is_named(inv: Inv, tmp_path: Path) -> None:
    """Releases lie on another disk than the cache."""
    clone, data = tmp_path / "a clone", tmp_path / "data"
    data.mkdir()
    env = {
        **inv.env,
        "BELAY_KEYS": str(tmp_path / "keys"),
        "BELAY_PASSPHRASE": "four words are enough",
        "BELAY_ALPINE_MIRROR": "sample",
        "BELAY_PUBLISH_LEVEL": "0",
        "XDG_DATA_HOME": str(data),
    }
    env.pop("BELAY_STORE", None)
    env.pop("BELAY_LOCK")

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=clone, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=600,
        )  # fmt: skip

    subprocess.run(["git", "clone", "-q", PROJECT, clone], check=True)
    (clone / ".venv").symlink_to(PROJECT / ".venv")
    with (clone / ".git/info/exclude").open("a") as file:
        file.write("/.venv\n")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for words in (
        ("./inv", "key.new"),
        ("./inv", "lock"),
        ("git", "add", "-A"),
        ("git", *identity, "commit", "-qm", "First"),
        ("git", "tag", "v1.0.0"),
    ):
        done = run(*words)
        assert done.returncode == 0, done.stderr
    wrap = (bwrap_path(), "--die-with-parent", "--dev-bind", "/", "/")
    done = run(
        *(*wrap, "--size", str(20 << 20), "--tmpfs", data),
        *("sh", "-c", './inv release --tag v1.0.0; code=$?; find "$1" -type f; exit $code'),
        *("sh", data),
    )
    assert done.returncode == 1, done.stderr
    assert f"{data}/belay/belay/blobs: no space left on the disk" in done.stderr
    assert done.stdout == "", "nothing half-done is left"
