"""What roles are made of. Each looks first, changes only what differs, and notes what it changed.

It runs on a node with Python's standard library alone, and imports only what is used: on a small
machine pathlib or re takes longer than a whole apply that changes nothing. The root of a node is
volatile, so each boot applies everything; a second apply changes nothing.
"""

from __future__ import annotations

import os
import stat

AGE_KEY = "/run/belay/node/age.key"
INSTALLED = "/lib/apk/db/installed"
RUNLEVEL = "/etc/runlevels/default"
STARTED = "/run/openrc/started"


class Failed(Exception):
    """A role can't be applied; says why."""


class Toolbox:
    """Changes the system of `node` below `root`; `changes` are those that were made, in order."""

    def __init__(self, site: str, node: str, root: str = "") -> None:
        self.site, self.node, self.root = site, node, root
        self.changes: list[str] = []

    def file(self, path: str, content: str | bytes, mode: int = 0o644) -> bool:
        """Give a file this content and mode; whether that changed anything."""
        target = self._place(path)
        data = content.encode() if isinstance(content, str) else content
        if _is_file(target, mode) and _read(target) == data:
            return False
        folder, name = os.path.split(target)
        os.makedirs(folder, exist_ok=True)
        fresh = f"{folder}/.{name}.new"
        with open(fresh, "wb") as file:
            os.fchmod(file.fileno(), mode)  # before a secret is in it
            file.write(data)
        os.replace(fresh, target)
        return self._changed(f"file {path}")

    def template(self, path: str, name: str, values: dict[str, str], mode: int = 0o644) -> bool:
        """A file out of `templates/NAME` of the site, with each {{name}} replaced by its value."""
        first, *pieces = _read(f"{self.site}/templates/{name}").decode().split("{{")
        text = [first]
        for piece in pieces:
            key, _, after = piece.partition("}}")
            if key.strip() not in values:
                raise Failed(f"templates/{name}: no value for {key.strip()[:40]!r}")
            text += str(values[key.strip()]), after
        return self.file(path, "".join(text), mode)

    def secret(self, name: str) -> bytes:
        """What `secrets/NODE/NAME.age` of the site holds, decrypted with the node's own key."""
        from age import NotForUs, decrypt

        path = f"secrets/{self.node}/{name}.age"
        try:
            key = _read(self.root + AGE_KEY).decode(errors="replace")
            return decrypt(_read(f"{self.site}/{path}"), key)
        except FileNotFoundError as error:
            raise Failed(f"secret {name}: there is no {error.filename}") from None
        except NotForUs as error:
            raise Failed(f"secret {name}: {path}: {error}") from None

    def absent(self, path: str) -> bool:
        """Remove a file or a folder."""
        target = self._place(path)
        if not os.path.lexists(target):
            return False
        if os.path.isdir(target) and not os.path.islink(target):
            import shutil

            shutil.rmtree(target)
        else:
            os.unlink(target)
        return self._changed(f"absent {path}")

    def packages(self, *names: str) -> bool:
        """Install packages: the offline ones, or of the mirror that the node has."""
        database = _read(self.root + INSTALLED).decode(errors="replace")
        installed = {line[2:] for line in database.splitlines() if line.startswith("P:")}
        missing = [name for name in names if name not in installed]
        if not missing:
            return False
        self._run("apk", "add", "--quiet", "--no-progress", *missing)
        return self._changed(f"packages {' '.join(missing)}")

    def user(self, name: str, home: str = "/var/empty", shell: str = "/sbin/nologin") -> bool:
        """A system user with a group of its own."""
        users = _read(f"{self.root}/etc/passwd").decode().splitlines()
        if any(line.split(":")[0] == name for line in users):
            return False
        self._run("adduser", "-S", "-D", "-H", "-h", home, "-s", shell, name)
        return self._changed(f"user {name}")

    def service(self, name: str, restart: bool = False) -> bool:
        """A service that starts at boot and runs now; restarted where its files changed."""
        link = f"{self.root}{RUNLEVEL}/{name}"
        changed = False
        if not os.path.islink(link):
            if not os.path.exists(f"{self.root}/etc/init.d/{name}"):
                raise Failed(f"there is no service {name}: no file /etc/init.d/{name}")
            os.symlink(f"/etc/init.d/{name}", link)
            changed = self._changed(f"service {name} enabled")
        if not os.path.lexists(f"{self.root}{STARTED}/{name}"):
            # Dependencies are up by now; asking for them would wait for the service that runs this.
            self._run("rc-service", "--nodeps", name, "start")
            return self._changed(f"service {name} started")
        if restart:
            self._run("rc-service", "--nodeps", name, "restart")
            return self._changed(f"service {name} restarted")
        return changed

    def _place(self, path: str) -> str:
        if not path.startswith("/") or ".." in path.split("/"):
            raise Failed(f"{path}: wanted an absolute path without ..")
        return self.root + path

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


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _is_file(path: str, mode: int) -> bool:
    """Whether a path is a plain file, no link, of this mode."""
    try:
        return os.lstat(path).st_mode == stat.S_IFREG | mode
    except OSError:
        return False
