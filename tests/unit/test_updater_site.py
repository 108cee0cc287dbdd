"""A configuration on trial: kept, or rejected with its reason, and never two trials at once."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from tests.esp import esp
from tests.publisher import NOW, FileNode, needs_filters
from updater import memory
from updater.contract import GOOD, TRIAL
from updater.errors import UpdateError
from updater.formats import Channel
from updater.grubenv import BootState
from updater.site import Site
from updater.update import Updater

pytestmark = needs_filters

WELL = '#!/bin/sh\necho \'{"changed": ["file /etc/motd"]}\'\n'


def site(apply: str, version: str = "1.0.0") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in (("version", f"{version}\n"), ("apply", apply)):
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o755, len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


@dataclass
class Channelled:
    """What the updater has to offer: an archive."""

    archive: bytes

    def channel(self, name: str) -> Channel:
        digest = hashlib.sha256(self.archive).hexdigest()
        return Channel("belay", name, "1.0.0", digest, NOW, NOW + 1000)

    def blob(self, digest: str, most: int) -> bytes:
        return self.archive


class Trials:
    """A node that runs in good slot a, and what happens on it."""

    def __init__(self, folder: Path) -> None:
        self.node = FileNode(folder, esp(), [])
        self.node.change(mode=GOOD)
        self.node.boot.write(BootState())
        (self.node.root / "etc/belay/health.d").mkdir(parents=True)
        (self.node.root / "run/belay").mkdir(parents=True, exist_ok=True)
        self.output: list[str] = []
        self.reboots = 0

    @property
    def site(self) -> Site:
        return Site(self.node.node, self.node.memory, self.output.append)

    def reboot(self) -> None:
        self.reboots += 1

    def offer(self, archive: bytes) -> bool | None:
        """Whether it was kept; None if it wasn't tried."""
        done = self.site.update(cast("Updater", Channelled(archive)), self.reboot)
        return done.well if done else None

    def keeps(self, state: str, slot: str = "a") -> bytes:
        return self.node.memory.read(f"site-{slot}-{state}").partition(b"\n")[2]


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    trials = Trials(tmp_path / "node")
    assert trials.offer(site(WELL, "0.9.0"))
    return trials


def test_what_is_well_is_kept_and_applied_at_boot(trials: Trials) -> None:
    archive = site(WELL)
    assert trials.offer(archive)
    assert (trials.keeps("good"), trials.keeps("trial"), trials.reboots) == (archive, b"", 0)
    applied = trials.site.boot()
    assert applied and (applied.version, applied.changed) == ("1.0.0", ("file /etc/motd",))
    assert trials.offer(archive) is None, "it is not new"


@pytest.mark.parametrize(
    ("apply", "why"),
    [
        ("#!/bin/sh\necho no such rope\nexit 3\n", "apply: no such rope"),
        ("#!/no/such/shell\n", "apply: .*No such file"),
        ("\x7fELF", "apply: .*Exec format error"),
        ("#!/bin/sh\ntouch ../unwell\n", "check 10-own failed: unwell"),
    ],
    ids=["it fails", "no interpreter", "no program", "the node is unwell after it"],
)
def test_what_harms_the_node_is_left_for_what_was_good(
    trials: Trials, apply: str, why: str
) -> None:
    check = trials.node.root / "etc/belay/health.d/10-own"
    unwell = trials.node.root / "run/belay/unwell"
    check.write_text(f"#!/bin/sh\n[ ! -e {unwell} ] || {{ echo unwell; exit 1; }}\n")
    check.chmod(0o755)
    good, bad = trials.keeps("good"), site(apply)
    assert trials.offer(bad) is False
    assert trials.reboots == 1
    assert (trials.keeps("good"), trials.keeps("bad"), trials.keeps("trial")) == (good, bad, b"")
    left = trials.site.rejected()
    assert left["version"] == "1.0.0"
    assert re.search(why, left["why"])
    assert trials.offer(bad) is None, "it is not tried again"
    unwell.unlink(missing_ok=True)  # as the reboot does
    assert trials.offer(site(WELL, "1.1.0")), "the next honest one is"


def test_a_trial_that_was_cut_off_is_left(trials: Trials) -> None:
    trials.site._keep("trial", site(WELL))
    applied = trials.site.boot()
    assert applied and applied.version == "0.9.0"
    assert trials.site.rejected()["why"] == "the node went down before it was confirmed"


def test_there_are_never_two_trials(trials: Trials) -> None:
    trials.node.boot.write(BootState().with_slot("b", TRIAL))
    assert trials.offer(site(WELL)) is None
    assert trials.site.waits() == "a new site is tried after the release in slot b"
    trials.node.boot.write(BootState().with_slot("a", TRIAL))
    trials.node.change(mode=TRIAL)
    assert trials.offer(site(WELL)) is None
    assert trials.site.waits() == "a new site is tried when this boot is confirmed"
    trials.node.boot.write(BootState())
    assert trials.offer(site(WELL)), "it was confirmed, though it is still the same boot"
    trials.node.change(mode="rescue")
    assert trials.offer(site(WELL, "1.1.0")) is None
    assert trials.site.waits() == "no new site is tried in a boot of mode rescue"


def test_a_release_on_trial_begins_with_what_was_good(trials: Trials) -> None:
    good = trials.keeps("good")
    trials.node.change(mode=TRIAL, slot="b")
    applied = trials.site.boot()
    assert applied and applied.version == "0.9.0"
    assert trials.keeps("good", "b") == good


def no_room_for(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Neither on `data` nor in memory."""
    write = memory._write

    def full(folder: Path, file: str, data: bytes) -> None:
        if file == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(folder, file, data)

    monkeypatch.setattr(memory, "_write", full)


def test_without_room_for_the_reason_the_node_goes_back_nevertheless(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_room_for(monkeypatch, "site-a-why")
    assert trials.offer(site("#!/bin/sh\nexit 1\n")) is False
    assert trials.reboots == 1
    assert "site-a-why can't be written" in "\n".join(trials.output)


def test_what_can_t_be_kept_for_good_is_not_tried(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would know after a power cut that it had been tried."""
    no_room_for(monkeypatch, "site-a-trial")
    with pytest.raises(UpdateError, match="site-a-trial can't be written"):
        trials.offer(site(WELL, "1.1.0"))


def test_a_kept_site_with_any_flipped_bit_is_not_applied(trials: Trials) -> None:
    kept = trials.node.memory.folder / "site-a-good"
    whole = kept.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 48)):
        kept.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert trials.site.boot() is None
        assert trials.output[-1] == "data/belay/site-a-good is damaged, and is not applied"
        assert not kept.exists()
    assert trials.node.memory.damaged()[0].startswith("site-a-good (")
    # What is good in the other slot is, here too; else it comes anew.
    (trials.node.memory.folder / "site-b-good").write_bytes(whole)
    applied = trials.site.boot()
    assert applied and applied.version == "0.9.0"
    assert kept.read_bytes() == whole
    kept.write_bytes(b"")
    kept.with_name("site-b-good").unlink()
    assert trials.offer(site(WELL, "0.9.0")) is True


@pytest.mark.parametrize("odd", ["", "[]", "{}", '{"version": 1, "why": ""}', "[" * 10_000])
def test_an_odd_reason_is_none(trials: Trials, odd: str) -> None:
    (trials.node.memory.folder / "site-a-why").write_text(odd)
    (trials.node.root / "run/belay/site.json").write_text(odd)
    assert trials.site.rejected() == {} and trials.site.applied() == {}
