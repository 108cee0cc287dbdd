"""The docker engine: the same bytes as bubblewrap, and nothing left behind."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from builder.core.commands import CommandError
from builder.core.config import load_config
from builder.core.errors import UserError
from builder.core.paths import LOCK_FILE, PROJECT
from builder.core.progress import Progress
from builder.engines import docker_engine
from builder.engines.choose import ChosenEngine
from builder.engines.docker_engine import LABEL, Docker
from builder.engines.engine import Job
from tests.docker_daemon import NoDaemon, own_daemon, own_podman

pytestmark = pytest.mark.container

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can start a dockerd")


@pytest.fixture
def engine(docker_host: str, monkeypatch: pytest.MonkeyPatch) -> Docker:
    monkeypatch.setenv("DOCKER_HOST", docker_host)
    return Docker()


@pytest.fixture
def root(artefacts: Path) -> Path:
    """The build container's root."""
    from builder.steps.plan import plan_for

    return plan_for(load_config(), ["chroot"], Progress()).root


def environment(docker_host: str, folder: Path, **more: str) -> dict[str, str]:
    """That of `inv` with the docker engine, and its `build/` in `folder`."""
    chosen = {"DOCKER_HOST": docker_host, "BELAY_BUILD_ENGINE": "docker"}
    return {**os.environ, **chosen, "BELAY_OUTPUT": str(folder / "build"), **more}


class Wire:
    """A TCP line to the unix socket `path`, which can be cut."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._ends: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._path)
                self._ends += [near, far]
                for reader, other in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(reader, other), daemon=True).start()

    @staticmethod
    def _copy(near: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(1 << 16):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        for end in (self._server, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def left_behind(engine: Docker) -> list[Any]:
    containers = engine.client.containers.list(all=True, filters={"label": LABEL}, sparse=True)
    return [*containers, *engine.client.volumes.list()]


def wait_until_removed(engine: Docker) -> None:
    """Until nothing is left behind: a job that ended doesn't wait for that."""
    deadline = time.monotonic() + 90
    while left := left_behind(engine):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def run(engine: Docker, root: Path, folder: Path, script: str, **inputs: Path) -> str:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    job = Job("trial", root, ("/bin/sh", "-euc", script), out, inputs, {"COLOUR": "red"})
    return engine.run(job, folder / "log")


def test_a_job_sees_its_inputs_and_leaves_its_outputs(
    engine: Docker, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "greeting").write_text("hello\n")
    script = """
        cat in/greeting; echo $COLOUR; pwd
        mkdir out/d; cp in/greeting out/d/copy; chown 7:9 out/d/copy; chmod 4755 out/d/copy
        chmod 555 out/d
        ln -s d/copy out/link
        tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '
    """
    output = run(engine, root, tmp_path, script, greeting=tmp_path / "greeting")
    assert output.split() == ["hello", "red", "/srv", "lo"]
    copy = tmp_path / "out/d/copy"
    assert (copy.read_text(), copy.stat().st_mode & 0o7777) == ("hello\n", 0o4755)
    assert copy.stat().st_uid == os.getuid()
    assert copy.parent.stat().st_mode & 0o7777 == 0o555
    assert (tmp_path / "out/link").readlink() == Path("d/copy")
    wait_until_removed(engine)


def test_podman_will_do_as_a_daemon(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "word").write_text("found\n")
    (tmp_path / "out").mkdir()
    script = ("/bin/sh", "-c", "cat in/word >out/answer; chown 7 out/answer; uname")
    job = Job("look", root, script, tmp_path / "out", {"word": tmp_path / "word"})
    try:
        with own_podman() as host:
            monkeypatch.setenv("DOCKER_HOST", host)
            engine = Docker()
            assert engine.daemon.startswith("podman ")
            assert engine.run(job, tmp_path / "log") == "Linux\n"
            wait_until_removed(engine)
    except NoDaemon as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    assert (tmp_path / "out/answer").read_text() == "found\n"


def test_a_failure_has_code_output_and_log(engine: Docker, root: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"(?s)trial failed with exit code 7:.*the reason.*log"):
        run(engine, root, tmp_path, "echo the reason >&2; exit 7")
    assert "the reason" in (tmp_path / "log").read_text()
    wait_until_removed(engine)


def test_outputs_without_room_leave_no_container(
    engine: Docker, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(docker_engine, "copy_sparse_to", fail)
    with pytest.raises(OSError, match="No space left") as full:
        run(engine, root, tmp_path, "head -c 64m /dev/zero >out/large")
    # The daemon waits as long as somebody has the other end of the stream: the traceback does.
    wait_until_removed(engine)
    del full


def test_docker_and_bubblewrap_build_the_same_bytes(
    engine: Docker, docker_host: str, artefacts: Path, tmp_path: Path
) -> None:
    cache = str(tmp_path / "cache")
    env = environment(docker_host, tmp_path, BELAY_CACHE=cache, BELAY_LOCK=str(LOCK_FILE))
    done = subprocess.run(
        [PROJECT / "inv", "image"], env=env, cwd=PROJECT, capture_output=True, text=True,
        check=False, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = [path for path in (tmp_path / "build").iterdir() if path.is_symlink()]
    assert len(made) == 21
    for path in made:
        same = path.read_bytes() == (artefacts / path.name).read_bytes()
        assert same, f"{path.name} differs; see: inv diff"
    wait_until_removed(engine)


def test_dockerfile_makes_the_same_container(engine: Docker, root: Path, tmp_path: Path) -> None:
    shutil.copy(PROJECT / "Dockerfile.alpine", tmp_path)
    done = subprocess.run(
        [PROJECT / "inv", "fetch"], env={**os.environ, "BELAY_OUTPUT": str(tmp_path / "build")},
        capture_output=True, text=True, check=False, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    base = engine._image(root)
    by_hand, _ = engine.client.images.build(
        path=str(tmp_path), dockerfile="Dockerfile.alpine", buildargs={"BASE": base},
        network_mode="none", tag="belay-build-test", rm=True,
    )  # fmt: skip
    assert by_hand.id
    assert files_of(engine, by_hand.id) == files_of(engine, base)


def files_of(engine: Docker, image: str) -> dict[str, str]:
    """What an image has, but for what docker and apk's log add: size and hash or target."""
    container = engine.client.containers.create(image, "true")
    try:
        stream, _ = container.get_archive("/")
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
            found = {}
            for member in archive:
                reader = archive.extractfile(member) if member.isreg() else None
                content = hashlib.sha256(reader.read()).hexdigest() if reader else member.linkname
                found[member.name] = f"{member.mode & 0o777:o} {content}"
    finally:
        container.remove(force=True, v=True)
    apart = ("/dev", "/proc", "/run", "/srv", "/tmp", "/sys", "/etc/mtab", "/.dockerenv")
    return {
        name: what
        for name, what in found.items()
        if not name.startswith((*apart, "/var/log/apk.log"))
    }


def test_ctrl_c_leaves_no_container(
    engine: Docker, docker_host: str, artefacts: Path, tmp_path: Path
) -> None:
    # Other modules, so that the result that other tests use stays.
    env = environment(docker_host, tmp_path, BELAY_MODLOOP_MODULES="vfat ext4")
    process = subprocess.Popen(
        [PROJECT / "inv", "modloop", "--force"], env=env, cwd=PROJECT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not engine.client.containers.list(filters={"label": f"{LABEL}=modloop"}):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, output = process.communicate(timeout=180)
    assert process.returncode == 130, output
    wait_until_removed(engine)


def test_what_a_killed_build_left_long_ago_is_removed(
    engine: Docker, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("abandoned", root, ("true",), tmp_path)
    engine._create(job)
    assert len(left_behind(Docker())) == 2, "it may belong to a build that runs: it stays"
    monkeypatch.setattr(docker_engine, "ABANDONED_AFTER_S", -60)
    assert left_behind(Docker()) == []


@needs_root
def test_roots_that_nobody_builds_with_leave_the_daemon(
    docker_host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_daemon() as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        engine = Docker()
        names = []
        for path, unused_after_s in ("old", 60), ("new", 60), ("newest", -60):
            root = tmp_path / path
            root.mkdir()
            (root / "what").write_text(path)
            monkeypatch.setattr(docker_engine, "UNUSED_AFTER_S", unused_after_s)
            names.append(engine._image(root))
            found = [tag for image in engine.client.images.list("belay") for tag in image.tags]
            assert sorted(found) == sorted(names if unused_after_s > 0 else names[-1:])


def test_without_a_daemon_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(UserError, match=r'no docker daemon answers: .*engine = "bubblewrap"'):
        _ = Docker().client


def test_a_daemon_that_goes_away_in_the_middle_is_named(
    docker_host: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(docker_host.removeprefix("unix://"))
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{wire.port}")
    with ThreadPoolExecutor() as pool:
        job = pool.submit(run, Docker(), root, tmp_path, "echo began; sleep 20")
        deadline = time.monotonic() + 90
        log = tmp_path / "log"
        while not (log.exists() and "began" in log.read_text()[-10:]):
            assert time.monotonic() < deadline and not job.done()
            time.sleep(0.05)
        wire.cut()
        with pytest.raises(UserError, match=r"trial: the docker daemon went away .* run this"):
            job.result()
    # The daemon is back: what was left is removed, as by a build some hours later.
    monkeypatch.setenv("DOCKER_HOST", docker_host)
    monkeypatch.setattr(docker_engine, "ABANDONED_AFTER_S", -60)
    assert left_behind(Docker()) == []


@needs_root
def test_a_daemon_whose_disk_is_full_is_named(
    docker_host: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_daemon(disk_mib=4) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(UserError, match=r"disk of the docker daemon is full.*docker system"):
            run(Docker(), root, tmp_path, "true")


def test_auto_is_docker_where_a_daemon_answers(
    engine: Docker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ChosenEngine("auto").name == "docker"
    assert "steps run in docker" in capsys.readouterr().err
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert ChosenEngine("auto").name == "bubblewrap"
    with pytest.raises(UserError, match="no docker daemon answers"):
        _ = ChosenEngine("docker").name
