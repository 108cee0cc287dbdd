"""What can go wrong on a node, so that a person can act on it."""

from __future__ import annotations

MESSAGE_MAX = 2000  # characters


def printable(text: str, most: int = MESSAGE_MAX) -> str:
    """`text` as it may reach a terminal, a log or the history: no control characters, not endless.

    Words of servers and programs may hold escape sequences, which do things to terminals.
    """
    if len(text) > most:
        text = f"{text[: most - 3]}..."
    if text.replace("\n", "").isprintable():  # nearly always, and quick
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


class UpdateError(Exception):
    """Something failed; the message says what, where, and what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Refused(UpdateError):
    """What was offered is not to be trusted, or not for this node. The same again won't help."""


class Unreachable(UpdateError):
    """The server can't be reached, or fails. Later it may work."""


class Missing(Unreachable):
    """It answers, and has not what is asked for."""


class NotNow(Refused, Unreachable):
    """What came is refused, and another answer may come later: it is of another time, or unsigned.

    Who is in between, such as a portal, a cache or a proxy, may have given it.
    """


class GaveWay(Unreachable):
    """Another process waits, and the server was waited for only."""


class Mismatch(Exception):
    """What was made from the active slot is not what is signed: it has to be fetched whole."""
