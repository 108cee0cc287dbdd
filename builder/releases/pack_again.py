"""Packs in/content as out/packed by $PACKER, with the updater of the system that runs this."""

import os
import sys
from pathlib import Path

sys.path.insert(0, "/usr/lib/belay")

from updater.streams import PACKERS

with Path("out/packed").open("wb") as file:
    for data in PACKERS[os.environ["PACKER"]]([Path("in/content").read_bytes()]):
        file.write(data)
