"""What `./inv` lists, and that README tells of the same."""

from __future__ import annotations

import errno
import json
import re
from copy import deepcopy

import pytest

from builder.core.errors import explained
from builder.core.options import whole_number
from builder.core.paths import PROJECT
from builder.core.program import Inv
from tasks import GROUPS, namespace

README = (PROJECT / "README.md").read_text()
LISTED = [name for names in GROUPS.values() for name in names]


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        # invoke takes the help out of tasks as it reads them.
        Inv(deepcopy(namespace), GROUPS).run(["inv", *words])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_each_task_is_in_one_group() -> None:
    names = {
        min([name, *others], key=len) if name.startswith("release.make") else name
        for name, others in namespace.task_names.items()
    }
    assert sorted(LISTED) == sorted(names)


def test_alone_it_lists_the_groups_and_where_help_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    assert [line for line in text.splitlines() if line in GROUPS] == list(GROUPS)
    for name in LISTED:
        assert re.search(rf"^  {re.escape(name)} +[A-Z]\S* ", text, re.MULTILINE), name
    assert "./inv TASK --help" in text and "README.md" in text
    assert "--prompt-for-sudo-password" not in text, "options of invoke that nobody needs"
    assert printed(capsys, "--list") == printed(capsys, "--help") == text


@pytest.mark.parametrize("task", LISTED)
def test_help_of_a_task_by_both_ways(capsys: pytest.CaptureFixture[str], task: str) -> None:
    text = printed(capsys, task, "--help")
    assert text.startswith(f"./inv {task} ") and text == printed(capsys, "--help", task)
    assert printed(capsys, task, "-h") == text


def test_help_explains_each_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert "build it even if nothing changed" in printed(capsys, "image", "--help")


@pytest.mark.parametrize(
    ("words", "found", "hint"),
    [
        ("explain nothing --json", 'there is no step "nothing"', "there are: "),
        ("image --jsn --json", './inv image doesn\'t know "--jsn"', "did you mean"),
        ("--dry lock --json", "./inv lock knows no --dry", "nothing was done"),
    ],
)
def test_with_json_an_error_is_a_result_too(
    capsys: pytest.CaptureFixture[str], words: str, found: str, hint: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        Inv(deepcopy(namespace), GROUPS).run(["inv", *words.split()])
    assert ended.value.code == 1
    output = capsys.readouterr()
    error = json.loads(output.out)
    assert error["error"] == found and error["hint"].startswith(hint)
    assert output.err.strip().endswith(f"{error['error']}; {error['hint']}"), "for people"


def test_an_error_of_the_system_has_a_hint() -> None:
    error = explained(OSError(errno.ENOSPC, "", "/x/.partial-1/y"))
    assert (error.found, error.hint) == (
        "/x: no space left on the disk",
        "make room, then run it again",
    )


def test_no_option_is_a_bare_int() -> None:
    """Of `--days x`, invoke's own `int` makes a traceback."""
    for context in deepcopy(namespace).to_contexts():
        for argument in context.args.values():
            assert argument.kind is not int, f"{context.name} --{argument.name}"


def test_readme_has_the_same_groups_and_stays_short() -> None:
    assert len(README.splitlines()) <= 160
    table = README.partition("## What you can do")[2].partition("##")[0]
    rows = re.findall(r"^\| ([A-Z][^|]+) \| ([^|]+) \|", table, re.MULTILINE)
    assert {title: re.findall(r"`([^`]+)`", names) for title, names in rows} == {
        title: list(names) for title, names in GROUPS.items()
    }
    glossary = README.partition("## Ten words")[2].partition("##")[0]
    assert len(re.findall(r"^\| [a-z]+ \|", glossary, re.MULTILINE)) == 11, "and its head"
    for name in re.findall(r"`\./inv ([a-z.]+)", README):
        assert name in LISTED, f"README names ./inv {name}"


def test_documents_name_only_tasks_that_there_are() -> None:
    for document in (PROJECT / "docs").glob("*.md"):
        for name in re.findall(r"\./inv ([a-z.]+)", document.read_text()):
            assert name in LISTED, f"{document.name} names ./inv {name}"


@pytest.mark.parametrize("text", ["", "x", "1.5", "0x1", "1e3", "\u0661", "0", "11", "-1", "+1"])
def test_what_is_no_number_of_those_allowed(text: str) -> None:
    with pytest.raises(Exception, match=r'--days: found ".*", wanted a whole number of days from'):
        whole_number("days", text, 1, 10, "days")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(28, "", "/c/results/.partial-x1/y"),
            "/c/results: no space left on the disk",
        ),
        (OSError(122, "", "/c"), "/c: your quota on this disk is used up"),
        (PermissionError(13, "", "/root/x"), "/root/x: you may not read or write it; change"),
        (OSError(30, "", "/p/nodes"), "/p/nodes: it lies on a file system that can't be written"),
        (FileNotFoundError(2, "", "/x"), "/x: there is no such file or folder"),
        (NotADirectoryError(20, "Not a directory", "/x"), "/x: Not a directory"),
        (OSError(5, "", "/x"), "/x: the disk failed to read or write it"),
        (OSError("something else"), "something else"),
    ],
)
def test_an_error_of_the_system_is_a_sentence(error: OSError, sentence: str) -> None:
    assert str(explained(error)).startswith(sentence)
