"""The same update by RAUC, where it is installed: a bundle, fetched and installed into a file."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("rauc", "dbus-run-session", "mksquashfs", "openssl", "curl")
BUNDLE = "update.raucb"  # in the folder that is served
TIMEOUT_S = 600
MANIFEST = """\
[update]
compatible=belay
version=1

[bundle]
format=plain

[image.root]
filename=slot.img
"""
CONFIG = """\
[system]
compatible=belay
bootloader=noop

[keyring]
path={folder}/cert.pem

[slot.root.0]
device={slots}/slot-a
type=raw
bootname=a

[slot.root.1]
device={slots}/slot-b
type=raw
bootname=b
"""


@dataclass(frozen=True)
class RaucFigures:
    """Seconds of an update, MiB of memory that the service had at most, MB of the bundle."""

    seconds: float
    memory_mib: float
    bundle_mb: float


def is_installed() -> bool:
    """Whether there is all that this takes."""
    return all(shutil.which(program) for program in PROGRAMS)


def make_bundle(folder: Path, slot: Path, served: Path) -> None:
    """Make a key in `folder`, and of a slot image a bundle that is signed with it in `served`."""
    content = folder / "bundle"
    content.mkdir(parents=True)
    (folder / "mnt").mkdir()
    shutil.copyfile(slot, content / "slot.img")
    (content / "manifest.raucm").write_text(MANIFEST)
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    _run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=bench", "-keyout", key, "-out", cert)  # fmt: skip
    _run("rauc", "bundle", "--cert", cert, "--key", key, str(content), str(served / BUNDLE))


def install_bundle(folder: Path, slots: Path, url: str, times: int) -> RaucFigures:
    """Update `times` times; the median. `slots` has the files slot-a, which runs, and slot-b."""
    (folder / "system.conf").write_text(CONFIG.format(folder=folder, slots=slots))
    script = str(Path(__file__).with_name("rauc.sh"))
    seconds, memory = [], 0
    for _ in range(times):
        output = _run("dbus-run-session", "--", "sh", script, str(folder), f"{url}/{BUNDLE}")
        start, end, kib = output.split()
        seconds.append(float(end) - float(start))
        memory = max(memory, int(kib))
    size = (folder / "fetched.raucb").stat().st_size
    return RaucFigures(statistics.median(seconds), memory / 1024, size / 1e6)


def _run(*words: str) -> str:
    done = subprocess.run(
        words, check=True, capture_output=True, text=True, timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout
