"""What `[update]` of image.toml and a node's own settings can say, and what counts on a node.

This is the one list: image.toml (`builder/core/config.py`), the node's `settings.json`, and what
the shell reads follow from it.
"""

import re
from pathlib import Path
from typing import NamedTuple

from updater.contract import ETC_SETTINGS, RUN_NODE, RUN_SETTINGS
from updater.errors import UpdateError
from updater.reading import read_file, read_object

# The least and the most of each number.
LIMITS = {
    "rate": (0, 1 << 40),
    "interval_s": (10, 366 * 86400),
    "deadline_s": (10, 86400),
    "boot_s": (60, 86400),
}
HOUR = "(?:[0-9]|1[0-9]|2[0-3])"
PORT = "(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
# What texts look like; others may have any.
PATTERNS = {
    "log": rf"(udp://(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9][A-Za-z0-9.-]*)(:{PORT})?)?",
    "channel": r"[a-z0-9][a-z0-9._-]{0,63}",
    "stick": r"[A-Z0-9_-]{0,11}",
    "window": rf"((?P<first>{HOUR})-(?!(?P=first)$){HOUR})?",
}
WANTED = {  # the same in words
    "channel": "small letters, digits, . _ -",
    "log": "udp://HOST, udp://HOST:PORT, or nothing",
    "stick": "up to 11 capital letters or digits",
    "window": "two different hours from 0 to 23, like 22-4, or nothing",
}
KINDS = {str: "a text", int: "a whole number", bool: "true or false"}
TEXT_MAX = 2000  # characters


class Settings(NamedTuple):
    """`settings.json` of the image, overridden by that of the node's own files.

    `url` is the server; `rate` the bytes a second that a download may take (0: all); `window` the
    hours in which a node may update and reboot by itself, as 22-4 in its local time; `stick` the
    label of sticks with releases. `deadline_s` is for all health checks together, and for applying
    the site; `boot_s` for a boot to be confirmed, else the watchdog ends it. Of `proxy` and
    `no_proxy` see `server.Access`; `log` is where syslog goes, too, as udp://HOST:PORT (RFC 3164).
    """

    url: str = ""
    channel: str = "stable"
    rate: int = 0
    interval_s: int = 3600
    window: str = ""
    network: bool = False  # whether a system without network is unhealthy
    deadline_s: int = 300
    boot_s: int = 600
    stick: str = "BELAYUPDATE"
    site: bool = False  # whether the server has a configuration for this node
    proxy: str = ""
    no_proxy: str = ""
    log: str = ""


def read_settings(root: Path) -> tuple[Settings, list[str]]:
    """The settings of a node, and what is wrong with its own.

    Its own count as far as they make sense: a slip there must not end all updates.
    """
    try:
        values, wrong = read_object((root / ETC_SETTINGS).read_bytes()), list[str]()
    except ValueError as error:
        raise UpdateError(f"{root / ETC_SETTINGS} of the image is damaged: {error}") from None
    name = "settings.json"
    try:
        own = read_object(read_file(root / RUN_NODE / name, TEXT_MAX * 40))
    except FileNotFoundError:
        own = {}
    except (OSError, ValueError) as error:
        own, wrong = {}, [f"{name} is no JSON object, and is ignored: {error}"]
    for key, value in own.items():
        if problem := _problem(key, value):
            wrong.append(f"{name}: {key} is {str(value)[:80]!r}, and is ignored: {problem}")
        else:
            values[key] = value
    return Settings(**values), wrong


def _problem(name: str, value: object) -> str:
    """What is wrong with a setting; nothing if it makes sense."""
    kind = Settings.__annotations__.get(name)
    if kind is None:
        return "there is no such setting"
    if type(value) is not kind:
        return f"wanted {KINDS[kind]}"
    if isinstance(value, str):
        if len(value) > TEXT_MAX or not value.isprintable():
            return f"wanted up to {TEXT_MAX} characters that can be printed"
        pattern = PATTERNS.get(name)
        return "" if pattern is None or re.fullmatch(pattern, value) else f"wanted {WANTED[name]}"
    least, most = LIMITS.get(name, (0, 1))
    assert isinstance(value, int)
    return "" if least <= value <= most else f"wanted {least} to {most}"


def for_shell(settings: Settings) -> str:
    """Settings as lines NAME=VALUE."""
    values = settings._asdict().items()
    return "".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}\n"
        for name, value in values
    )


def resolve_settings(root: Path) -> tuple[Settings, list[str]]:
    """Say once for all what counts on this node; the shell reads that, too. See read_settings."""
    settings, wrong = read_settings(root)
    path = root / RUN_SETTINGS
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(for_shell(settings))
    fresh.rename(path)
    return settings, wrong
