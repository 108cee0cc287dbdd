"""Mirrors of Alpine packages: which one is used, and reading a file from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.core.config import Alpine
from tasks.core.errors import UserError
from tasks.core.output import say
from tasks.core.paths import PROJECT

PUBLIC = "https://dl-cdn.alpinelinux.org/alpine"
INDEX = "APKINDEX.tar.gz"
ALPINE_KEYS = Path(__file__).with_name("keys")
TIMEOUT_S = (5, 60)  # to connect, to read on
PROBE_TIMEOUT_S = (3, 5)


class Unreachable(UserError):
    """A mirror did not answer."""


@dataclass(frozen=True)
class Mirror:
    """A place laid out like Alpine's mirror, a URL or a folder, and the keys it is trusted by."""

    location: str
    keys: Path

    def read(self, path: str, timeout_s: tuple[float, float] = TIMEOUT_S) -> bytes:
        """The file `path`, such as `v3.23/main/x86_64/APKINDEX.tar.gz`.

        Raises Unreachable when the mirror doesn't answer, UserError when it hasn't got the file.
        """
        if not self.location.startswith("http"):
            try:
                return (Path(self.location) / path).read_bytes()
            except OSError as error:
                raise UserError(f"{self.location}/{path}: {error.strerror}") from None
        import requests

        url = f"{self.location.rstrip('/')}/{path}"
        try:
            response = requests.get(url, timeout=timeout_s)
            response.raise_for_status()
            return response.content
        except requests.HTTPError as error:
            raise UserError(
                f"{url}: {error.response.status_code} {error.response.reason}"
            ) from None
        except requests.RequestException as error:
            raise Unreachable(f"{url}: can't be reached: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """The innermost cause, which says what a person can act on."""
    inner = getattr(error, "reason", None) or (error.args[0] if error.args else None)
    return _reason(inner) if isinstance(inner, BaseException) else str(error).split(": ", 1)[-1]


def folder_of(alpine: Alpine, repository: str) -> str:
    """Where a mirror has a repository: its index and its packages."""
    return f"{alpine.branch}/{repository}/{alpine.arch}"


def choose_mirror(alpine: Alpine) -> Mirror:
    """The mirror that `image.toml` names; "auto" is the public one, or where it fails the sample.

    Only a mirror that can't be reached leads to the sample: one that answers wrongly is an error.
    """
    keys = PROJECT / alpine.keys if alpine.keys else ALPINE_KEYS
    if not any(keys.glob("*.pub")):
        raise UserError(f"image.toml: [alpine] keys: there is no *.pub in {keys}")
    if alpine.mirror not in ("auto", "sample"):
        return Mirror(alpine.mirror, keys)
    if alpine.mirror == "auto":
        mirror = Mirror(PUBLIC, keys)
        try:
            mirror.read(f"{folder_of(alpine, alpine.repositories[0])}/{INDEX}", PROBE_TIMEOUT_S)
            return mirror
        except Unreachable as error:
            say(f"{error}\nusing the sample mirror instead: real Alpine packages, but few of them")
    from tasks.sample.mirror import sample_mirror

    folder = sample_mirror(alpine.release)
    return Mirror(str(folder), folder / "keys")
