"""Imports the updater, so that Python compiles it, and all that it uses and isn't compiled yet.

Python notes the time of a source in its bytecode. Here that becomes the hash of the source, never
to be looked at: the bytes depend on no time, and the node's root can't change.
Prints the files, from the root. Format: PEP 552.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import source_from_cache, source_hash
from pathlib import Path

HASHED_UNCHECKED = (0b01).to_bytes(4, "little")
HEADER_SIZE = 16

UPDATER = Path("/usr/lib/belay/updater")

sys.path.insert(0, str(UPDATER.parent))
for path in sorted(UPDATER.glob("*.py")):
    import_module(f"{UPDATER.name}.{path.stem}")

for name in ("hmac", "shutil", "string", "subprocess", "tomllib"):  # what sites are made of
    import_module(name)

for cached in Path("/usr/lib").rglob("__pycache__/*.pyc"):
    try:
        source = Path(source_from_cache(str(cached)))
    except ValueError:  # a name of another program's, such as a test runner's
        continue
    if not (source.is_file() and cached.is_file()):  # nothing would read it
        continue
    bytecode = cached.read_bytes()
    header = bytecode[:4] + HASHED_UNCHECKED + source_hash(source.read_bytes())
    cached.write_bytes(header + bytecode[HEADER_SIZE:])
    print(cached.relative_to("/"))
