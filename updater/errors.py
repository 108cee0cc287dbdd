"""What can go wrong on a node, so that a person can act on it."""

from __future__ import annotations


class UpdateError(Exception):
    """Something failed; the message says what, where, and what to do about it."""


class Refused(UpdateError):
    """What was offered is not to be trusted, or not for this node. The same again won't help."""


class Unreachable(UpdateError):
    """The server can't be reached, or fails. Later it may work."""
