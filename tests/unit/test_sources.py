"""What counts as the project's files is what git would keep, wherever that is asked."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.core.errors import UserError
from builder.core.files import gzipped
from builder.core.sources import files_below, gather
from builder.releases.site import build_site
from builder.steps.step import tree_digest


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a git tree: a tracked file and a new one, and what doesn't count."""
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    ignored = tmp_path / "ignored"
    ignored.write_text("*~\n.DS_Store\n")
    root = tmp_path / "project"
    folder = root / "overlay"
    (folder / "etc").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", root], check=True)
    subprocess.run(["git", "-C", root, "config", "core.excludesFile", ignored], check=True)
    (root / ".gitignore").write_text("__pycache__/\n")
    (folder / "etc/tracked").write_text("1")
    subprocess.run(["git", "-C", root, "add", "overlay"], check=True)
    (folder / "etc/new").write_text("2")
    (folder / "etc/link").symlink_to("nowhere")
    return folder


def names(tree: Path) -> list[str]:
    return [path.relative_to(tree).as_posix() for path in files_below(tree)]


def leave_behind(tree: Path) -> None:
    """What an editor, a file manager, Python and people leave in a checkout."""
    for name in ("etc/new~", ".DS_Store", "etc/__pycache__/tool.cpython-311.pyc"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("junk")
    (tree / "srv/only-here").mkdir(parents=True)


def test_ignored_files_and_empty_folders_do_not_count(tree: Path, tmp_path: Path) -> None:
    kept = ["etc/link", "etc/new", "etc/tracked"]
    assert names(tree) == kept
    before = tree_digest(tree)
    leave_behind(tree)
    assert names(tree) == kept and tree_digest(tree) == before
    gather(tree, tmp_path / "seen")
    assert sorted(
        p.relative_to(tmp_path / "seen").as_posix() for p in (tmp_path / "seen").rglob("*")
    ) == [
        "etc",
        *kept,
    ]


def test_what_was_deleted_does_not_count_and_what_is_new_does(tree: Path) -> None:
    before = tree_digest(tree)
    (tree / "etc/tracked").unlink()
    assert names(tree) == ["etc/link", "etc/new"]
    (tree / "etc/more").touch()
    assert "etc/more" in names(tree) and tree_digest(tree) != before


def test_without_git_all_counts_but_what_python_leaves(tree: Path) -> None:
    (tree.parent / ".git").rename(tree.parent / "elsewhere")
    leave_behind(tree)
    assert names(tree) == [".DS_Store", "etc/link", "etc/new", "etc/new~", "etc/tracked"]


def test_a_clone_and_an_archive_of_it_have_the_same_hash(tree: Path) -> None:
    before = tree_digest(tree)
    (tree.parent / ".git").rename(tree.parent / "elsewhere")
    assert tree_digest(tree) == before


def test_names_may_be_any_bytes(tree: Path) -> None:
    odd = os.fsdecode(b"etc/o'd \"d\xff\\\t\xc3\xbc")
    (tree / odd).write_text("x")
    assert odd in names(tree)
    assert tree_digest(tree)


def test_a_site_follows_the_same_rule(tree: Path) -> None:
    (tree / "etc/link").unlink()
    (tree / "version").write_text("1.0.0\n")
    (tree / "apply").write_text("#!/bin/sh\n")
    (tree / "apply").chmod(0o755)
    before = build_site(tree)
    leave_behind(tree)
    assert build_site(tree) == before


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_what_is_packed_is_the_same_by_every_python(size: int) -> None:
    """Their own gzip writes another head: 255 or 3 for the system, a hint of the level."""
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    packed = gzipped(data, 4)
    assert gzip.decompress(packed) == data
    assert packed[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\x03"


def test_where_git_cannot_say_what_counts_nothing_is_guessed(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = names(tree)
    with monkeypatch.context() as patch:
        patch.setenv("GIT_DIR", "/nowhere")  # of a hook of another repository
        assert names(tree) == kept
    inner = tree / "etc/inner"
    inner.mkdir()
    subprocess.run(["git", "init", "-q", inner], check=True)
    who = "-c user.name=a -c user.email=a@example.org"
    commit = f"git {who} commit -q --allow-empty -m a".split()
    subprocess.run(commit, cwd=inner, check=True)
    with pytest.raises(UserError, match=r"etc/inner is a git repository by itself"):
        names(tree)
    shutil.rmtree(inner)
    (tree.parent / ".git/index").write_bytes(
        b"not an index of git, but long enough to be looked at"
    )
    with pytest.raises(UserError, match=r"overlay: git can't say which files count:\n"):
        names(tree)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"overlay: git is not installed"):
        names(tree)
