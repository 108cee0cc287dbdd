"""What git refuses is said in its own words, and not taken for an answer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.core import git as core_git
from builder.core.errors import UserError
from builder.core.git import git


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository in place of the project."""
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "project"
    folder.mkdir()
    subprocess.run(["git", "init", "-q", folder], check=True)
    monkeypatch.setattr(core_git, "PROJECT", folder)
    return folder


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        git(*words, nothing=1)
    return str(caught.value)


def test_a_tag_that_is_not_there_is_nothing(project: Path) -> None:
    assert git("rev-parse", "--verify", "--quiet", "refs/tags/v1^{commit}", nothing=1) is None


def test_no_repository_is_not_the_same_as_no_tag(project: Path) -> None:
    (project / ".git").rename(project / "elsewhere")
    output = refusal("rev-parse", "--verify", "--quiet", "refs/tags/v1^{commit}")
    assert output.startswith(f"{project} is no git repository") and "git init" in output


def test_a_damaged_index_is_not_a_clean_tree(project: Path) -> None:
    (project / ".git/index").write_bytes(b"DIRC half")
    output = refusal("status", "--porcelain")
    assert output.startswith(f"git status failed in {project}:\n") and "index" in output


def test_git_itself_may_be_missing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert refusal("status") == "git is not installed; install it, then run this again"


def test_a_checkout_of_somebody_else_is_named_with_gits_remedy(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own tests do it that way
    monkeypatch.setenv("HOME", "/nowhere")
    output = refusal("rev-parse", "--verify", "--quiet", "refs/tags/v1^{commit}")
    assert "dubious ownership" in output and "git config --global --add safe.directory" in output
