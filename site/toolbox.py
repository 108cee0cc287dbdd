"""What roles are made of. Each looks first, changes only what differs, and notes what it changed.

It runs on a node with Python's standard library alone, and brings only what is used: on a small
machine each import takes its time. The root of a node is volatile, so each boot
applies everything; a second apply changes nothing.
"""

from __future__ import annotations

import os
import string
from collections.abc import Mapping
from pathlib import Path

AGE_KEY = "run/belay/node/age.key"
INSTALLED = "lib/apk/db/installed"
RUNLEVELS = "etc/runlevels"
STARTED = "run/openrc/started"


class Failed(Exception):
    """A role can't be applied; says why."""


class Toolbox:
    """Changes the system of `node` below `root`; `changes` are those that were made, in order."""

    def __init__(self, site: Path, node: str, root: Path = Path("/")) -> None:
        self.site, self.node, self.root = site, node, root
        self.changes: list[str] = []

    def file(self, path: str, content: str | bytes, mode: int = 0o644) -> bool:
        """Give a file this content and mode; whether that changed anything."""
        target = self._place(path)
        data = content.encode() if isinstance(content, str) else content
        same = target.is_file() and not target.is_symlink() and target.read_bytes() == data
        if same and target.stat().st_mode & 0o7777 == mode:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.new")
        fresh.write_bytes(data)
        fresh.chmod(mode)
        fresh.replace(target)
        return self._changed(f"file {path}")

    def template(self, path: str, name: str, values: Mapping[str, str], mode: int = 0o644) -> bool:
        """A file out of `templates/NAME` of the site, with $NAMES filled in."""
        text = (self.site / "templates" / name).read_text()
        try:
            return self.file(path, string.Template(text).substitute(values), mode)
        except (KeyError, ValueError) as error:
            raise Failed(f"templates/{name}: no value for {error}") from None

    def secret(self, name: str) -> bytes:
        """What `secrets/NODE/NAME.age` of the site holds, decrypted with the node's own key."""
        from age import NotForUs, decrypt

        path = self.site / "secrets" / self.node / f"{name}.age"
        key = self.root / AGE_KEY
        try:
            return decrypt(path.read_bytes(), key.read_text())
        except FileNotFoundError as error:
            raise Failed(f"secret {name}: there is no {error.filename}") from None
        except NotForUs as error:
            raise Failed(f"secret {name}: {path.relative_to(self.site)}: {error}") from None

    def absent(self, path: str) -> bool:
        """Remove a file or a folder."""
        target = self._place(path)
        if not target.exists() and not target.is_symlink():
            return False
        if target.is_dir() and not target.is_symlink():
            import shutil

            shutil.rmtree(target)
        else:
            target.unlink()
        return self._changed(f"absent {path}")

    def packages(self, *names: str) -> bool:
        """Install packages: those on hand, or of the mirror that the node has."""
        database = (self.root / INSTALLED).read_text(errors="replace")
        there = {line[2:] for line in database.splitlines() if line.startswith("P:")}
        missing = [name for name in names if name not in there]
        if not missing:
            return False
        self._run("apk", "add", "--quiet", "--no-progress", *missing)
        return self._changed(f"packages {' '.join(missing)}")

    def user(self, name: str, home: str = "/var/empty", shell: str = "/sbin/nologin") -> bool:
        """A system user with a group of its own."""
        users = (self.root / "etc/passwd").read_text().splitlines()
        if any(line.split(":")[0] == name for line in users):
            return False
        self._run("adduser", "-S", "-D", "-H", "-h", home, "-s", shell, name)
        return self._changed(f"user {name}")

    def service(self, name: str, restart: bool = False) -> bool:
        """A service that starts at boot and runs now; restarted where its files changed."""
        link = self.root / RUNLEVELS / "default" / name
        changed = False
        if not link.is_symlink():
            if not (self.root / "etc/init.d" / name).exists():
                raise Failed(f"there is no service {name}: no file /etc/init.d/{name}")
            link.symlink_to(f"/etc/init.d/{name}")
            changed = self._changed(f"service {name} enabled")
        if not (self.root / STARTED / name).exists():
            # Dependencies are up by now; asking for them would wait for the service that runs this.
            self._run("rc-service", "--nodeps", name, "start")
            return self._changed(f"service {name} started")
        if restart:
            self._run("rc-service", "--nodeps", name, "restart")
            return self._changed(f"service {name} restarted")
        return changed

    def _place(self, path: str) -> Path:
        if not path.startswith("/") or ".." in Path(path).parts:
            raise Failed(f"{path}: wanted an absolute path without ..")
        return self.root / path[1:]

    def _changed(self, what: str) -> bool:
        self.changes.append(what)
        return True

    def _run(self, *words: str) -> None:
        import subprocess

        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        if done.returncode:
            end = (done.stdout + done.stderr).strip()[-500:]
            raise Failed(f"{' '.join(words)}: exit code {done.returncode}: {end}")
