"""Packs by the programs of an older release, to see that its nodes make the very same bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from builder.core.arch import host_arch
from builder.core.commands import CommandError
from builder.core.paths import LOGS
from builder.engines.emulation import emulated
from builder.engines.engine import SCRIPT_ARGV, Engine, Job
from builder.releases.streams import PackAgain
from updater import slot

HERE = Path(__file__).parent
# As /usr/bin/belay starts: nothing else that Python finds there counts.
PYTHON = ("/usr/bin/python3", "-I", "in/script")


# The same where they are another architecture's: only in the container there is the emulator.
EMULATED = ("/bin/sh", "-euc", "mount -o rbind /srv in/root/srv; exec chroot in/root /bin/sh -euc "
            "'cd /srv; exec /usr/bin/python3 -I in/script'")  # fmt: skip


@contextmanager
def programs_of(engine: Engine, root: Path, arch: str, image: memoryview) -> Iterator[PackAgain]:
    """Unpack the root part of a slot image by the container's `root`, and pack by what is in it."""
    is_foreign = emulated(arch if arch != host_arch().name else "", PYTHON) != PYTHON
    _, part, _ = slot.parts(lambda offset, size: bytes(image[offset : offset + size]))
    with tempfile.TemporaryDirectory(prefix="belay-proof-") as name:
        folder = Path(name)
        squashfs, out = folder / "squashfs", folder / "out"
        squashfs.write_bytes(image[part.offset : part.offset + part.size])
        out.mkdir()
        inputs = {"script": HERE / "proof.sh", "squashfs": squashfs}
        engine.run(Job("proof", root, SCRIPT_ARGV, out, inputs), LOGS / "proof.log")

        def pack_again(packer: str, content: bytes) -> bytes:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                result, file = Path(scratch) / "result", folder / "content"
                result.mkdir()
                file.write_bytes(content)
                seen = {"script": HERE / "pack_again.py", "content": file}
                job = Job("proof", out / "root", PYTHON, result, seen, {"PACKER": packer})
                if is_foreign:
                    seen = {**seen, "root": out / "root"}
                    job = replace(job, root=root, argv=EMULATED, inputs=seen, emulated=arch)
                try:
                    engine.run(job, LOGS / "proof.log")
                except CommandError:  # it has no such packer
                    return b""
                return (result / "packed").read_bytes()

        yield pack_again
