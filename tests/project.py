"""A clone of the project as a user has it: a key of its own, tags, releases, a web server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from builder.core.git import git
from builder.core.paths import CACHE, LOCK_FILE, PROJECT
from tests.programs import program

COMMIT_TIME = "2026-10-01T00:00:00Z"


class Project:
    """The clone in `folder`, whose releases nodes find at `port` of this machine."""

    def __init__(self, folder: Path, port: int) -> None:
        self.root = folder / "project"
        self.www = folder / "www"
        self.build = folder / "build"
        self.store = folder / "store"
        self.port = port
        self.env = {
            **os.environ,
            "BELAY_CACHE": str(cache_with_results_apart(folder / "cache")),
            "BELAY_OUTPUT": str(self.build),
            "BELAY_KEYS": str(folder / "keys"),
            "BELAY_STORE": str(self.store),
            "BELAY_PUBLISH_DELTAS": "1",
            "BELAY_ALPINE_MIRROR": "sample",
            "BELAY_PASSPHRASE": "four words are enough",
            "BELAY_UPDATE_URL": f"http://10.0.2.2:{port}",  # this machine, as a guest sees it
            "BELAY_UPDATE_INTERVAL_S": "86400",
            "BELAY_PUBLISH_TO": str(self.www),
            "BELAY_PUBLISH_LEVEL": "0",
            "GIT_AUTHOR_DATE": COMMIT_TIME,
            "GIT_COMMITTER_DATE": COMMIT_TIME,
        }
        self.env.pop("BELAY_LOCK", None)
        copy_project(self.root)
        (self.root / ".venv").symlink_to(PROJECT / ".venv")
        (self.root / ".gitignore").write_text("/.venv\n__pycache__/\n")
        for lock in LOCK_FILE.parent.glob("apk*.lock"):
            shutil.copy(lock, self.root)
        self.git("init", "-q")
        self.inv("key.new")

    def git(self, *words: str) -> None:
        command = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", *words]
        subprocess.run(command, cwd=self.root, env=self.env, check=True, capture_output=True)

    def inv(self, *words: str, **env: str) -> str:
        """Run a task that must succeed; what it says, all of it."""
        done = self.run(*words, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / "inv", *words], env={**self.env, **env}, cwd=self.root,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=1800,
        )  # fmt: skip

    def commit(self, tag: str) -> None:
        """Commit what there is under a tag."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", f"Release {tag}")
        self.git("tag", tag)

    def release(self, version: str, **env: str) -> Path:
        """Commit, tag and release what there is; its slot image."""
        self.inv("slot", **env)  # a lock that has to change does so before the commit
        self.commit(f"v{version}")
        self.inv("release", "--tag", f"v{version}", **env)
        return (self.build / "slot.img").resolve()

    def upload(self, *words: str) -> str:
        """Publish, checked from where this machine sees the server."""
        return self.inv("upload", *words, BELAY_UPDATE_URL=f"http://127.0.0.1:{self.port}")


def copy_project(folder: Path) -> None:
    """Copy the files of the project to `folder`, as a clone of it has them; without a lock."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard") or ""
    for name in listed.strip("\0").split("\0"):
        if (PROJECT / name).exists() and name != "apk.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name, follow_symlinks=False)


def cache_with_results_apart(folder: Path) -> Path:
    """A cache that has all that the user's has; but the gigabytes that are made go to `folder`."""
    results = folder / "results"
    results.mkdir(parents=True)
    for kind in ("chunks", "deltas"):  # made once for all tests
        (CACHE / kind).mkdir(parents=True, exist_ok=True)
    for path in CACHE.iterdir():
        if path.name not in (
            "results",
            "locks",
            "downloads",
        ):  # half a file has a lock
            (folder / path.name).symlink_to(path)
    for path in (CACHE / "results").glob("*"):
        (results / path.name).symlink_to(path)
    return folder


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server listens."""
    deadline = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{process.args!r} doesn't listen"
        time.sleep(0.05)


NGINX = """\
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
worker_processes 1;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
    }}
}}
"""


class Nginx:
    """Debian's nginx, serving `root` while the block runs; `log` is its access log."""

    def __init__(self, root: Path, port: int, folder: Path) -> None:
        self.port, self.folder, self.log = port, folder, folder / "access.log"
        folder.mkdir(parents=True)
        root.mkdir(parents=True, exist_ok=True)
        user = "user root;\n" if os.getuid() == 0 else ""
        text = user + NGINX.format(folder=folder, root=root, port=port)
        (folder / "nginx.conf").write_text(text)

    def __enter__(self) -> Nginx:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Serve, from when this returns on."""
        words = ("-c", self.folder / "nginx.conf", "-p", self.folder, "-e", self.folder / "errors")
        self._process = subprocess.Popen(
            [program("nginx"), *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for_port(self.port, self._process)

    def stop(self) -> None:
        """Be away: who asks is turned down."""
        self._process.terminate()
        self._process.wait(60)


@dataclass
class Published:
    """Releases on a web server: the disk image of the first, slot images by version."""

    project: Project
    first_disk: Path
    slots: dict[str, Path]
    server: Nginx

    def packed(self, version: str) -> int:
        """The bytes of all chunks of a release."""
        manifest = self.project.store / "releases" / version / "manifest.json"
        size: int = json.loads(manifest.read_text())["slot"]["blob"]["size"]
        return size

    def fetched(self, before: int = 0) -> list[int]:
        """The bytes of each answer with chunks, from line `before` of the log on."""
        lines = self.server.log.read_text().splitlines()[before:]
        return [int(line.split()[9]) for line in lines if "/blobs/" in line]
