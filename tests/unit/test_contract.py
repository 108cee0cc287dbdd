"""Whatever repeats a name of the contract names nothing that it lacks."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.core.config import load_config
from builder.core.contract import for_shell
from builder.core.paths import PROJECT
from builder.disk.layout import grub_config, layout, sized
from updater import contract
from updater.contract import BAD, GOOD, RESCUES, TRIAL, TRIES

TEXTS = {text for name, text in vars(contract).items() if name.isupper() and isinstance(text, str)}
# What packages or users have below etc/belay beside what is agreed on.
FREE = {"etc/belay/release"}


def sources() -> Iterator[Path]:
    """All that runs on a node or before it, apart from the updater, which imports the contract."""
    yield PROJECT / "grub.cfg.in"
    yield from sorted((PROJECT / "builder/disk").glob("*.sh"))
    for folder in ("initramfs", "rootfs", "site"):
        for path in sorted((PROJECT / folder).rglob("*")):
            if path.is_file() and b"\0" not in path.read_bytes()[:4096]:
                yield path


SOURCES = list(sources())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_the_paths_that_are_named_are_those_of_the_contract(path: Path) -> None:
    for named in re.findall(r"(?:run|etc|data)/belay(?:/[a-z0-9_.-]+)*", path.read_text()):
        name = named.rstrip(".")
        folders = {name.rsplit("/", depth)[0] for depth in range(1, name.count("/") - 1)}
        wanted = TEXTS | FREE
        assert name in wanted or folders & wanted, f"{name} is not in updater/contract.py"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_the_arguments_and_partitions_that_are_named_are_those_of_the_contract(path: Path) -> None:
    text = path.read_text()
    arguments = set(re.findall(r"\bbelay\.[a-z0-9]+(?==|\))", text))
    arguments |= set(re.findall(r"argument (belay\.[a-z0-9]+)", text))
    assert arguments <= TEXTS
    partitions = set(re.findall(r"PARTNAME=([a-z-]+)", text)) - {"slot-"}
    assert partitions <= set(contract.PARTITIONS)
    assert not re.search(r"gpt[0-9]", text), "the numbers of partitions are filled in"


def test_the_marks_in_the_log_are_written_as_they_are_looked_for() -> None:
    init = (PROJECT / "initramfs/init").read_text()
    assert contract.MARK_SWITCHED.removeprefix("belay: ") in init
    assert "$MARK_STARTED" in (PROJECT / "rootfs/overlay/etc/init.d/belay-boot").read_text()


def test_the_shell_gets_all_of_it() -> None:
    script = f'{for_shell()}\necho $RUN_CONFIRMED; echo "$MARK_STARTED"x; echo $EXIT_NOT_YET'
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["/run/belay/confirmed", "belay: started x", "75"]


def test_health_checks_answer_as_the_updater_understands_it() -> None:
    allowed = {"0", "1", str(contract.EXIT_NOT_YET), str(contract.EXIT_SKIPPED)}
    for path in (PROJECT / "rootfs/overlay/etc/belay/health.d").iterdir():
        assert set(re.findall(r"\bexit (\d+)", path.read_text())) <= allowed, path.name


def test_grub_counts_as_many_tries_as_the_updater_gives() -> None:
    """It has no arithmetic: for each number of tries there is a line."""
    config = load_config()
    text = grub_config(config, layout(sized(config, {config.alpine.kernel: 512})))
    assert "@" not in re.sub(r"#.*", "", text)
    assert dict(re.findall(r'"\$tries" = (\d+) \]; then left=(\d+)', text)) == {
        str(tries): str(tries - 1) for tries in range(1, max(TRIES.values()) + 1)
    }
    assert dict(re.findall(r'"\$rescues" = (\d+) \]; then counted=(\d+)', text)) == {
        str(count): str(count + 1) for count in range(RESCUES)
    }
    assert f"a_tries={TRIES[GOOD]}\n" in text and f"b_tries={TRIES[GOOD]}\n" in text
    for number, name in enumerate(contract.PARTITIONS, start=1):
        assert (f"$disk,gpt{number}" in text) == name.startswith("slot-")


def test_no_trial_has_more_tries_than_a_good_slot() -> None:
    """A slot with more is damage, for GRUB and for the updater."""
    assert TRIES[BAD] == 0 < TRIES[TRIAL] <= TRIES[GOOD]
