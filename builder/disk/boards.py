"""Boards: machines whose firmware wants files on the ESP, and a device tree for each kernel.

A board is a folder of `boards/`, with lists (`packages`, `esp`, `devicetrees`) and files for the
ESP. All else is as on every machine: the firmware starts GRUB, and that counts tries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from builder.core.arch import AARCH64
from builder.core.config import Config
from builder.core.errors import UserError
from builder.core.paths import PROJECT

BOARDS = PROJECT / "boards"
DEVICETREES = "devicetrees.tar"  # those of the kernel, as the step `chroot` finds them
_LISTS = ("packages", "esp", "devicetrees")


@dataclass(frozen=True)
class Board:
    """A board, by its folder."""

    folder: Path

    def _lines(self, name: str) -> list[str]:
        text = re.sub(r"#.*", "", (self.folder / name).read_text())
        return [line.strip() for line in text.splitlines() if line.strip()]

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages that hold files for the ESP."""
        return tuple(self._lines("packages"))

    @property
    def esp(self) -> str:
        """A line for each file of a package: its path there, and on the ESP."""
        return "".join(f"{' '.join(line.split())}\n" for line in self._lines("esp"))

    @property
    def files(self) -> list[Path]:
        """Files of its own for the ESP."""
        return sorted(path for path in self.folder.iterdir() if path.name not in _LISTS)

    @property
    def grub(self) -> str:
        """What `grub.cfg` does after `linux`: it takes the device tree of that very kernel.

        GRUB 2.12 and newer can say which machine this is. Older ones leave the firmware's tree,
        which is that of the kernel that the disk was installed with.
        """
        lines = ["", "if fdtdump --prop model --set model; then", "\ttree="]
        word = "if"
        for line in self._lines("devicetrees"):
            model, file = line.rsplit(maxsplit=1)
            lines += [f'\t{word} regexp "{model}" "$model"; then', f"\t\ttree={file}"]
            word = "elif"
        lines += [
            "\tfi",
            '\tif [ -n "$tree" -a -s "($part)/dtb/$tree" ]; then',
            '\t\tdevicetree "($part)/dtb/$tree"',
            "\tfi",
            "fi",
        ]
        return "\n\t\t".join(lines)


def board_of(config: Config) -> Board | None:
    """The board of a config, if it has one. Raises UserError where it doesn't fit."""
    name = config.boot.board
    if not name:
        return None
    for key, found, wanted in (
        ("arch", config.alpine.arch, AARCH64.name),
        ("kernel", config.alpine.kernel, name),
    ):
        if found != wanted:
            raise UserError(
                f'board = "{name}" in [boot] of image.toml goes with {key} = "{wanted}" in '
                f'[alpine], and that is "{found}"',
                f"change one of the two; for one run: BELAY_ALPINE_{key.upper()}={wanted}",
            )
    return Board(BOARDS / name)
