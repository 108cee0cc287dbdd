"""Runs `inv` as a user does, in a process of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from builder.core.paths import PROJECT
from tests.mirror import Mirror


class Inv:
    """Runs `inv` with a cache of its own; what is given by name goes to the environment."""

    def __init__(self, folder: Path, mirror: Mirror) -> None:
        self.cache = folder / "the cache"
        self.lock = folder / "apk.lock"
        self.build = folder / "build"
        self.env = {
            **os.environ,
            "BELAY_CACHE": str(self.cache),
            "BELAY_LOCK": str(self.lock),
            "BELAY_OUTPUT": str(self.build),
            "BELAY_ALPINE_MIRROR": mirror.url,
            "BELAY_ALPINE_KEYS": str(mirror.folder / "keys"),
        }

    def __call__(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROJECT / "inv", *words], env={**self.env, **env}, cwd=PROJECT,
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def succeeds(self, *words: str, **env: str) -> str:
        done = self(*words, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *words: str, **env: str) -> str:
        """What it says. It says it without a traceback, and leaves nothing half-done behind."""
        done = self(*words, **env)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert not list(self.cache.rglob(".partial*"))
        return done.stderr
