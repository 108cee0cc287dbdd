"""Options of the command line that want more than a word.

They come as text, so that each mistake gets a sentence: invoke itself only knows `int`.
"""

from __future__ import annotations

from builder.core.errors import UserError


def whole_number(option: str, text: str, least: int, most: int, unit: str = "") -> int:
    """The number in `text`, in words of `unit`. Raises UserError outside of `least` to `most`."""
    if text.isascii() and text.removeprefix("-").isdigit() and least <= int(text) <= most:
        return int(text)
    wanted = f"a whole number{f' of {unit}' if unit else ''} from {least} to {most}"
    raise UserError(f'--{option}: found "{text}", wanted {wanted}')
