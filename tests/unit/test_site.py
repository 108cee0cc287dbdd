"""The example site's toolbox, and the archive that nodes get."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pyrage
import pytest
from pyrage import x25519

from builder.core.errors import UserError
from builder.core.paths import PROJECT
from builder.releases.site import SITE_FOLDER, build_site
from tests.publisher import needs_filters
from updater.errors import Refused
from updater.process import run_within
from updater.site_archive import unpack


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy of the example site."""
    return Path(shutil.copytree(SITE_FOLDER, tmp_path / "site"))


def test_the_archive_is_the_same_wherever_it_is_made(site: Path) -> None:
    before = build_site(site)
    (site / "__pycache__").mkdir()
    (site / "roles.py").touch()
    assert build_site(site) == before == build_site()


def test_a_site_without_apply_or_version_is_not_published(site: Path) -> None:
    (site / "apply").chmod(0o644)
    with pytest.raises(UserError, match=r"apply: a site needs this program"):
        build_site(site)
    (site / "version").write_text("soon\n")
    with pytest.raises(UserError, match='found "soon", wanted a version like'):
        build_site(site)


def archive(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in members:
            tar.addfile(member)
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, 0o755
    return info


@needs_filters
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (archive(member("../out")), "outside"),
        (archive(member("link", tarfile.SYMTYPE, "/etc/shadow")), "link"),
        (archive(member("null", tarfile.CHRTYPE)), "special|device"),
        (archive(member("version")), "no program `apply`"),
        (archive(member("apply"))[:-20], "can't be unpacked"),
        (b"no archive", "can't be unpacked"),
    ],
    ids=["a path out", "a link out", "a device", "without apply", "truncated", "garbage"],
)
def test_an_archive_that_makes_no_sense_is_refused(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    with pytest.raises(Refused, match=reason):
        unpack(data, tmp_path / "tree")
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_what_apply_started_does_not_outlive_its_time(tmp_path: Path) -> None:
    program = tmp_path / "apply"
    program.write_text("#!/bin/sh\necho begins\nsleep 600 &\nwait\n")
    program.chmod(0o755)
    # That it returns at all says that nobody holds the other end of the output any more.
    assert run_within(1, [program]) == (124, "begins\nit was not done within 1 s")


def test_a_second_apply_changes_nothing(site: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "lib/apk/db").mkdir(parents=True)
    (root / "lib/apk/db/installed").write_text("P:curl\nV:1\n\n")
    script = f"""
import sys; sys.path.insert(0, {str(site)!r})
from toolbox import Failed, Toolbox
for _ in range(2):
    tools = Toolbox({str(site)!r}, "crag-1", {str(root)!r})
    tools.file("/etc/motd", "hello", 0o600)
    tools.template("/srv/index.html", "index.html", {{"name": "crag-1", "greeting": "Hi"}})
    tools.packages("curl")
    tools.absent("/etc/nothing")
    print(len(tools.changes))
for wrong in (lambda: tools.file("../etc", ""), lambda: tools.template("/x", "index.html", {{}})):
    try:
        wrong()
    except Failed as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "2",
        "0",
        "../etc: wanted an absolute path without ..",
        "templates/index.html: no value for 'name'",
    ], done.stderr
    assert "<p>Hi from crag-1.</p>" in (root / "srv/index.html").read_text()


def test_the_inventory_is_parsed_anew_once_it_changes(site: Path) -> None:
    def node(name: str) -> list[str]:
        script = f"""
import sys; sys.path.insert(0, {str(site)!r})
from inventory import read_node
node = read_node({str(site)!r}, {name!r})
print(node.roles, node.values, "tomllib" in sys.modules)
"""
        done = subprocess.run(
            [sys.executable, "-B", "-c", script], capture_output=True, text=True, check=False
        )
        return [done.stdout.strip(), *done.stderr.splitlines()[-1:]]

    front = "('web',) {'greeting': 'Welcome'}"
    assert node("crag-1") == [f"{front} True"]
    assert node("crag-1") == [f"{front} False"]
    assert node("crag-9") == ["() {} False"]
    inventory = site / "inventory.toml"
    inventory.write_text(inventory.read_text().replace("Welcome", "Goodbye"))
    assert node("crag-1") == ["('web',) {'greeting': 'Goodbye'} True"]
    (site / "__pycache__/inventory").write_bytes(b"no such thing")
    assert node("crag-1") == ["('web',) {'greeting': 'Goodbye'} True"]


@pytest.mark.parametrize("size", [0, 1, 64, 65_536, 65_537])
def test_a_secret_is_for_its_node_alone(site: Path, tmp_path: Path, size: int) -> None:
    """What age encrypts, a node decrypts; nobody else, and nothing that was changed."""
    owner, other = x25519.Identity.generate(), x25519.Identity.generate()
    text = random.Random(size).randbytes(size)
    sealed = pyrage.encrypt(text, [other.to_public(), owner.to_public()])
    for_other = pyrage.encrypt(text, [other.to_public()])
    at = random.Random(size).randrange(sealed.index(b"---") + 4, len(sealed))
    changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
    key = f"# of crag-1\n{owner}\n"
    cases = {"well": sealed, "other": for_other, "changed": changed, "cut": sealed[:-1]}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
    script = f"""
import sys; sys.path.insert(0, {str(site)!r})
from pathlib import Path
from age import NotForUs, decrypt
for name in {list(cases)!r}:
    try:
        print(decrypt(Path({str(tmp_path)!r}, name).read_bytes(), {key!r}).hex())
    except NotForUs as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", script],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    well, others, after_change, cut = done.stdout.splitlines()
    assert well == text.hex(), done.stderr
    assert others == "it is encrypted for another node"
    assert "damaged" in after_change or "changed" in after_change
    assert "cut off" in cut
