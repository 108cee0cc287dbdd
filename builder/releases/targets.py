"""Where releases are published: a folder that a web server serves, here or over SSH."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from builder.core.config import Config
from builder.core.errors import UserError
from builder.core.host import require_program
from builder.core.paths import PROJECT
from updater.contract import arch_folder

ATTEMPTS = 4
PAUSE_S = 2.0
FOLDERS = ("blobs", "releases", "channels")


class Target(Protocol):
    """A place with files by name, such as `channels/stable`."""

    name: str

    def sizes(self) -> dict[str, int]:
        """The files that are there, with their sizes in bytes."""

    def put(self, path: Path, name: str) -> None:
        """Bring a file there: it is whole at once, or not there. Raises UserError."""

    def get(self, name: str) -> bytes:
        """A small file. Raises UserError."""


def open_target(location: str, base: Path = Path()) -> Target:
    """The target at `/folder`, `folder` (below `base`) or `[user@]host:/folder`."""
    host, colon, folder = location.partition(":")
    if colon and "/" not in host:
        return Ssh(host, folder)
    return Folder(base / Path(location).expanduser())


class Folder:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)

    def sizes(self) -> dict[str, int]:
        """See Target.sizes."""
        return {
            path.relative_to(self.folder).as_posix(): path.stat().st_size
            for part in FOLDERS
            for path in (self.folder / part).rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }

    def put(self, path: Path, name: str) -> None:
        """See Target.put."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".partial-{target.name}")
        try:
            shutil.copyfile(path, fresh)
            fresh.chmod(0o644)
            fresh.rename(target)
        except OSError as error:
            raise UserError(f"{target} can't be written: {error.strerror}") from None
        finally:
            fresh.unlink(missing_ok=True)

    def get(self, name: str) -> bytes:
        """See Target.get."""
        return (self.folder / name).read_bytes()


class Ssh:
    """A folder of another machine, which needs a shell and nothing else."""

    def __init__(self, host: str, folder: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self.host, self.folder, self.name = host, folder, f"{host}:{folder}"
        self._program = require_program("ssh")
        self._sleep = sleep

    def sizes(self) -> dict[str, int]:
        """See Target.sizes."""
        folder, parts = shlex.quote(self.folder), " ".join(FOLDERS)
        listing = self._run(
            f"mkdir -p {folder} && cd {folder} && mkdir -p {parts} && "
            f"find {parts} -type f ! -name '.*' -exec wc -c {{}} \\;"
        ).decode()
        found = (line.split(maxsplit=1) for line in listing.splitlines())
        return {name: int(size) for size, name in found}

    def put(self, path: Path, name: str) -> None:
        """See Target.put."""
        target = shlex.quote(f"{self.folder}/{name}")
        folder, _, last = f"{self.folder}/{name}".rpartition("/")
        fresh = shlex.quote(f"{folder}/.partial-{last}")
        size = path.stat().st_size
        self._run(
            f"mkdir -p {shlex.quote(folder)} && cat >{fresh} && "
            f'[ "$(wc -c <{fresh})" -eq {size} ] && chmod 644 {fresh} && mv {fresh} {target}',
            path,
        )

    def get(self, name: str) -> bytes:
        """See Target.get."""
        return self._run(f"cat {shlex.quote(f'{self.folder}/{name}')}")

    def _run(self, script: str, stdin: Path | None = None) -> bytes:
        """Run a script there, again where the connection fails."""
        command = [self._program, "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", self.host]
        for attempt in range(1, ATTEMPTS + 1):
            with (stdin or Path("/dev/null")).open("rb") as source:
                done = subprocess.run(
                    [*command, script], stdin=source, capture_output=True, check=False
                )
            if done.returncode == 0:
                return done.stdout
            if done.returncode != 255 or attempt == ATTEMPTS:  # 255 is ssh's own
                break
            self._sleep(PAUSE_S * 2**attempt)
        what = done.stderr.decode(errors="replace").strip()
        raise UserError(f"{self.name}: ssh failed with exit code {done.returncode}: {what}")


def target_of(config: Config, to: str) -> Target:
    """Where to publish to what nodes of this architecture look at."""
    folder = arch_folder(config.alpine.arch)
    if to:
        return open_target(_below(to, folder))
    if not config.publish.to:
        raise UserError(
            "where to publish is not set", "set to in [publish] of image.toml, or give --to"
        )
    return open_target(_below(config.publish.to, folder), PROJECT)


def _below(location: str, folder: str) -> str:
    return f"{location.rstrip('/')}/{folder}" if folder else location
