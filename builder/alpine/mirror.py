"""Mirrors of Alpine packages: which one is used, and bringing files from it."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.alpine.apk_format import INDEX
from builder.core.arch import host_arch
from builder.core.cache import mark_used
from builder.core.config import Alpine, OwnRepository
from builder.core.errors import UserError
from builder.core.files import folder_for
from builder.core.output import say
from builder.core.paths import CACHE, PROJECT

if TYPE_CHECKING:
    import requests

SAMPLE = "sample"  # the source of what comes from the sample mirror
ALPINE_MIRROR = "https://dl-cdn.alpinelinux.org/alpine"
ALPINE_KEYS = Path(__file__).with_name("keys")
TIMEOUT_S = (5, 20)  # to connect, to read on
TRIES = 5
TRY_AGAIN = (408, 425, 429)  # answers that say: later
ASK_EVERY_S = 3600
FIRST_PAUSE_S = 0.2  # doubled after each try

CountBytes = Callable[[int], None]  # is told how many came


class Unreachable(UserError):
    """A mirror did not answer."""


@dataclass(frozen=True)
class Mirror:
    """A place laid out like Alpine's mirror, and the keys it is trusted by.

    `location` is a URL, which may hold a password, or a folder; `source` is what `apk.lock` and
    people are told of it.
    """

    location: str
    keys: Path
    source: str

    @property
    def name(self) -> str:
        """The URL without a password, or the folder: for messages."""
        return without_password(self.location)

    def read(self, path: str) -> bytes:
        """The content of the small file `path`, such as `v3.23/main/x86_64/APKINDEX.tar.gz`."""
        target = CACHE / "downloads" / f"index-{time.monotonic_ns()}"
        try:
            self.download(path, target, lambda size: None)
            return target.read_bytes()
        finally:
            target.unlink(missing_ok=True)

    def download(self, path: str, target: Path, count: CountBytes, tries: int = TRIES) -> None:
        """Bring the file `path` to `target`; what is there of it already is not brought again.

        Raises Unreachable when the mirror doesn't answer, UserError when it hasn't got the file.
        What came stays in `target`, for another try. Nothing is verified here.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        if not self.location.startswith("http"):
            source = Path(self.location) / path
            try:
                count(Path(shutil.copyfile(source, target)).stat().st_size)
            except FileNotFoundError:
                raise UserError(f"{source}: is missing") from None
            return
        import requests
        import urllib3

        url, shown = (f"{base.rstrip('/')}/{path}" for base in (self.location, self.name))
        for failed in range(tries):
            try:
                if _continue(url, target, count):
                    return
                problem = "the answer ended too early"
            except requests.HTTPError as error:
                answer = error.response
                problem = f"the mirror answers: {answer.status_code} {answer.reason}"
                if answer.status_code < 500 and answer.status_code not in TRY_AGAIN:
                    raise UserError(f"{shown}: {problem}{_hint(answer.status_code)}") from None
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                problem = f"can't be reached: {_reason(error)}"
            except OSError as error:
                if error.errno is not None:
                    raise
                # A bundle of certificates that isn't where the environment says.
                raise UserError(f"{shown}: {error}", "see REQUESTS_CA_BUNDLE") from None
            if failed + 1 < tries:
                time.sleep(FIRST_PAUSE_S * 2**failed)
        raise Unreachable(f"{shown}: {problem}")


def _continue(url: str, target: Path, count: CountBytes) -> bool:
    """Bring what `target` lacks of `url`, as far as one request goes; whether that was all."""
    import requests

    have = target.stat().st_size if target.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    headers["Accept-Encoding"] = "identity"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            # It is complete, or it is another file by now: which of the two, its hash tells.
            return True
        response.raise_for_status()
        is_rest = response.status_code == requests.codes.partial_content
        with target.open("ab" if is_rest else "wb") as file:
            # As the server has it: some call a .gz an encoding of something else.
            for data in response.raw.stream(1 << 16, decode_content=False):
                file.write(data)
                count(len(data))
        return _is_complete(response, target, have if is_rest else 0)


def _is_complete(response: requests.Response, target: Path, before: int) -> bool:
    length = response.headers.get("Content-Length")
    return length is None or target.stat().st_size - before == int(length)


def without_password(url: str) -> str:
    """A URL without what only its owner may know: the user's name and password in it."""
    return re.sub(r"^(https?://)[^/@]*@", r"\1", url)


def _hint(status: int) -> str:
    if status in (401, 403):
        return ": give user and password in the URL (by the environment), or in ~/.netrc"
    if status == 404:
        return (
            ": it has dropped the file, or is in the middle of an update; ./inv lock --upgrade "
            "takes what it has now; or try again later, or another mirror; or the URL in "
            "image.toml is not that of a repository, or the repository has no such architecture"
        )
    return ""


def _reason(error: BaseException) -> str:
    """The innermost cause, which says what a person can act on."""
    inner = getattr(error, "reason", None) or (error.args[0] if error.args else None)
    return _reason(inner) if isinstance(inner, BaseException) else str(error).split(": ", 1)[-1]


def folder_of(alpine: Alpine, repository: str, arch: str) -> str:
    """Where a mirror has a repository: its index and its packages."""
    return f"{alpine.branch}/{repository}/{arch}"


@dataclass(frozen=True)
class Repository:
    """An index and its packages: in a `folder` of a mirror. `name` is what `apk.lock` calls it.

    A tag is part of the name: with another one, other packages come from it.
    """

    name: str
    mirror: Mirror
    folder: str
    arch: str
    tag: str = ""


def repository_names(alpine: Alpine) -> list[str]:
    """What `apk.lock` calls the repositories; those with a tag are last but for the tools' ones."""
    tagged = sorted(alpine.own, key=lambda own: bool(own.tag))
    return [*alpine.repositories, *map(_own_name, tagged), *_tools(alpine)]


def _tools(alpine: Alpine) -> dict[str, str]:
    """The mirror's repositories that tools come from, by name, where they are of another arch."""
    arch = host_arch().name
    return {f"{name}/{arch}": name for name in alpine.repositories if arch != alpine.arch}


def _own_name(own: OwnRepository) -> str:
    return f"@{own.tag} " * bool(own.tag) + without_password(own.url)


def repositories_of(alpine: Alpine, mirror: Mirror) -> dict[str, Repository]:
    """All repositories by name: those of the mirror, and own ones, those with a tag last.

    Raises UserError where the key of one is missing.
    """
    arch, tools = alpine.arch, host_arch().name
    found = [Repository(r, mirror, folder_of(alpine, r, arch), arch) for r in alpine.repositories]
    found += [
        Repository(name, mirror, folder_of(alpine, r, tools), tools)
        for name, r in _tools(alpine).items()
    ]
    for own in sorted(alpine.own, key=lambda own: bool(own.tag)):
        keys = _key_folder(_own_key(own.key)) if own.key else package_keys(alpine)
        its_mirror = Mirror(own.url, keys, without_password(own.url))
        found.append(Repository(_own_name(own), its_mirror, arch, arch, own.tag))
    return {repository.name: repository for repository in found}


def trusted_keys(alpine: Alpine, mirror: Mirror) -> Path:
    """A folder with the keys of all repositories: for apk, which makes no difference among them.

    What it is given was verified before, with the keys of its own repository.
    """
    found: dict[str, bytes] = {}
    for repository in repositories_of(alpine, mirror).values():
        if repository.mirror.keys != mirror.keys:
            _add_keys(found, _keys_in(repository.mirror.keys), repository.name)
    return _key_folder(_add_keys(found, _keys_in(mirror.keys), "")) if found else mirror.keys


def _own_key(name: str) -> dict[str, bytes]:
    path = PROJECT / name
    try:
        return {path.name: path.read_bytes()}
    except FileNotFoundError:
        raise UserError(f"image.toml: [alpine] repositories: there is no key {name}") from None


def mirror_of(alpine: Alpine, source: str) -> Mirror:
    """The mirror that `apk.lock` calls `source`; the sample is made if it isn't there yet."""
    if source == SAMPLE:
        from builder.sample.mirror import sample_mirror

        folder = sample_mirror(alpine.release, alpine.arch)
        return Mirror(str(folder), folder / "keys", SAMPLE)
    return Mirror(source, package_keys(alpine), without_password(source))


def package_keys(alpine: Alpine) -> Path:
    """A folder with the keys by which packages are trusted: Alpine's, and those of the project."""
    if not alpine.keys:
        return ALPINE_KEYS
    own = PROJECT / alpine.keys
    if not (added := _keys_in(own)):
        raise UserError(f"image.toml: [alpine] keys: there is no *.pub in {own}")
    return _key_folder(_add_keys(_keys_in(ALPINE_KEYS), added, str(own)))


def _keys_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.pub"))}


def _add_keys(found: dict[str, bytes], added: dict[str, bytes], where: str) -> dict[str, bytes]:
    for name, data in added.items():
        if found.setdefault(name, data) != data:
            raise UserError(f"{where}: {name}: another key has this name", "rename one of the two")
    return found


def _key_folder(found: dict[str, bytes]) -> Path:
    """A folder with these keys, which never changes."""
    digest = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()
    cached = CACHE / "keys" / digest[:16]
    if not cached.is_dir():
        with folder_for(cached) as folder:
            for name, data in found.items():
                (folder / name).write_bytes(data)
    mark_used(cached)
    return cached


def same_source(alpine: Alpine, source: str) -> str:
    """The URL of the mirror that `apk.lock` calls `source`: with the password, if there is one."""
    is_same = without_password(alpine.mirror) == source
    return alpine.mirror if is_same else source


def is_back(alpine: Alpine, at_once: bool = False) -> bool:
    """Whether the public mirror answers, where the sample took its place.

    It is asked `at_once`, or once an hour: a machine without a network needn't wait at each build.
    """
    asked = CACHE / "mirror-asked"
    if not at_once and asked.exists() and time.time() - asked.stat().st_mtime < ASK_EVERY_S:
        return False
    asked.parent.mkdir(parents=True, exist_ok=True)
    asked.touch()
    return _answers(mirror_of(alpine, ALPINE_MIRROR), alpine, tries=1) is None


def choose_mirror(alpine: Alpine) -> Mirror:
    """The mirror that `image.toml` names; "auto" is the public one, or where it fails the sample.

    Only a mirror that can't be reached leads to the sample: one that answers wrongly is an error.
    """
    if alpine.mirror != "auto":
        return mirror_of(alpine, alpine.mirror)
    mirror = mirror_of(alpine, ALPINE_MIRROR)
    if (problem := _answers(mirror, alpine)) is None:
        return mirror
    say(f"{problem}\nusing the sample mirror instead: real Alpine packages, but few of them")
    return mirror_of(alpine, SAMPLE)


def _answers(mirror: Mirror, alpine: Alpine, tries: int = TRIES) -> Unreachable | None:
    """What keeps a mirror from answering; None where it does, if only to say no."""
    probe = CACHE / "downloads" / f"probe-{time.monotonic_ns()}"
    try:
        path = f"{folder_of(alpine, alpine.repositories[0], alpine.arch)}/{INDEX}"
        mirror.download(path, probe, lambda size: None, tries)
        return None
    except Unreachable as error:
        return error
    finally:
        probe.unlink(missing_ok=True)
