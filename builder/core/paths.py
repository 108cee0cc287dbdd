"""Where things lie: results below `build/`, what many checkouts share in the user's cache."""

import os
from pathlib import Path

# Variables of the environment that are no settings of image.toml.
VARIABLES = {
    "BELAY_CACHE",
    "BELAY_KEYS",
    "BELAY_LOCK",
    "BELAY_OUTPUT",
    "BELAY_PASSPHRASE",
    "BELAY_PASSPHRASE_COMMAND",
    "BELAY_STORE",
}

PROJECT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("BELAY_OUTPUT") or PROJECT / "build").resolve()
LOGS = BUILD / "log"
KEPT = BUILD / "qemu"  # disks of machines that `inv qemu` runs
RUNS = ".runs"  # there: whoever runs one holds it
CONFIG_FILE = PROJECT / "image.toml"
LOCK_FILE = Path(os.environ.get("BELAY_LOCK") or PROJECT / "apk.lock").resolve()

CACHE = Path(
    os.environ.get("BELAY_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "belay"
).resolve()


def private_keys() -> Path:
    """Where private keys lie: outside of the project."""
    if folder := os.environ.get("BELAY_KEYS"):
        return Path(folder)
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "belay" / "keys"
