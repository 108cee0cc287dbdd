"""What packages and the overlay want arrives in the image, or the build says that it can't.

A mirror of the test's own has the sample's packages and one with all that can go wrong.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import struct
from pathlib import Path

import pytest
import tomli

from builder.alpine.apk_writer import Draft, Entry, draft
from builder.sample.mirror import write_repository
from tests.conftest import InContainer
from tests.mirror import Mirror
from tests.offer import Offer, new_key
from tests.project import Project

pytestmark = pytest.mark.container

APP = {"uid": 850, "gid": 850, "user": "app", "group": "app"}
DEEP = f"var/deep/{'d' * 200}"
OF_GROUP = {"gid": 850, "group": "app"}
ADDS_USER = b"#!/bin/sh\naddgroup -S -g 850 app\nadduser -S -u 850 -G app app\nexit 0\n"
SETS_OWNERS = b"""\
#!/bin/sh
set -e
mkdir -p /var/lib/queue/new
ln -s /etc/passwd /var/lib/queue/link
chown -R app:app /var/lib/queue
cd /etc/queue && chown root:app key ../../usr/bin/queue && chmod 640 key
chmod 2755 /usr/bin/queue
chown -h app:root /var/lib/queue/link
chmod 750 /var/lib/queue
chown app:app /etc/queue/edited
sed -i s/before/after/ /etc/queue/edited
chown app /usr/bin/tool
chgrp app /usr/bin/tool
chown root:root /usr/bin/given-back
chown app /usr/bin/of-group
chgrp app /usr/bin/of-user
chown :app /usr/bin/of-both
python3 - <<'END'
import os
os.setxattr("/usr/bin/queue", "user.by-script", b"yes")
os.chown("/usr/bin/back-1", 0, 0, follow_symlinks=False)
os.chown("back-2", 0, 0, dir_fd=os.open("/usr/bin", os.O_RDONLY), follow_symlinks=False)
os.fchown(os.open("/usr/bin/back-3", os.O_RDONLY), 0, 0)
END
rm /usr/bin/anew && touch /usr/bin/anew
chown app /usr/bin/was-pinger && chown root /usr/bin/was-pinger
install -d -m 2770 -g app /var/lib/shared && cd /var/lib/shared && mkdir below && touch below/file
if chown app /etc/nothing; then exit 1; fi
"""
# cap_net_raw=ep: struct vfs_cap_data, revision 2 with the effective bit, as little-endian words.
MAY_PING = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)

# What `unsquashfs -lln` is to say of each.
WANTED = {
    "usr/lib/app/launch-helper": "-rwsr-x--- 0/850",
    "usr/bin/postdrop": "-rwxr-sr-x 0/850",
    "usr/bin/rootsuid": "-rwsr-xr-x 0/0",
    "usr/bin/noexec": "-rwSr----- 850/850",
    "var/spool/app": "drwxrwx--T 850/850",
    "var/lib/app": "drwxrwsr-x 850/850",
    "etc/app/o'd \"d\\": "-rw------- 850/850",
    "etc/app/two  blanks": "-rw------- 850/850",
    "etc/app/b\udcff": "-rw------- 850/850",
    "etc/app/ both ends ": "-rw------- 850/850",
    f"{DEEP}/{'n' * 250}": "-rws--x--x 850/850",
    "usr/bin/twin": "-rwxr-sr-x 0/850",
    # What the install script asks for.
    "var/lib/queue": "drwxr-x--- 850/850",
    "var/lib/queue/new": "drwxr-xr-x 850/850",
    "var/lib/queue/link": "lrwxrwxrwx 850/0",
    "etc/queue": "drwxr-xr-x 0/0",
    "etc/queue/key": "-rw-r----- 0/850",
    "etc/queue/edited": "-rw-r--r-- 850/850",
    "usr/bin/queue": "-rwxr-sr-x 0/850",
    "usr/bin/tool": "-rwxr-xr-x 850/850",
    "usr/bin/given-back": "-rwxr-xr-x 0/0",
    **{f"usr/bin/back-{number}": "-rwxr-xr-x 0/0" for number in (1, 2, 3)},
    "usr/bin/anew": "-rw-r--r-- 0/0",
    "var/lib/shared/below": "drwxr-sr-x 0/850",
    "var/lib/shared/below/file": "-rw-r--r-- 0/850",
    "lib/modules-load.d/app.conf": "-rw-r--r-- 0/0",
    "lib/firmware-own/x": "-rw-r--r-- 0/0",
    "usr/bin/of-group": "-rwxr-xr-x 850/850",
    "usr/bin/of-user": "-rwxr-xr-x 850/850",
    "usr/bin/of-both": "-rwxr-xr-x 0/850",
}
ENTRIES = (
    Entry("usr/lib/app/launch-helper", 0o4750, b"x", **OF_GROUP),  # type: ignore[arg-type]
    Entry("usr/bin/postdrop", 0o2755, b"x", **OF_GROUP),  # type: ignore[arg-type]
    Entry("usr/bin/rootsuid", 0o4755, b"x"),
    Entry("usr/bin/noexec", 0o4640, b"x", **APP),  # type: ignore[arg-type]
    Entry("var/spool/app", 0o1770, **APP),  # type: ignore[arg-type]
    Entry("var/lib/app", 0o2775, **APP),  # type: ignore[arg-type]
    Entry("etc/app/o'd \"d\\", 0o600, b"x", **APP),  # type: ignore[arg-type]
    Entry("etc/app/two  blanks", 0o600, b"x", **APP),  # type: ignore[arg-type]
    Entry("usr/merged", 0o755),
    Entry("etc/app/ both ends ", 0o600, b"x", **APP),  # type: ignore[arg-type]
    Entry(f"{DEEP}/{'n' * 250}", 0o4711, b"x", **APP),  # type: ignore[arg-type]
    Entry("etc/app/b\udcff", 0o600, b"x", **APP),  # type: ignore[arg-type]
    Entry("usr/bin/twin", 0o2755, twin="usr/bin/postdrop", **OF_GROUP),  # type: ignore[arg-type]
    Entry("usr/bin/pinger", 0o755, b"x", xattrs={"security.capability": MAY_PING}),
    Entry("usr/bin/laid-over", 0o755, b"x", xattrs={"security.capability": MAY_PING}),
    Entry("etc/app/two  ta\\gs ", 0o644, b"x", xattrs={"user.tag": b"one two"}),
    Entry("etc/queue/key", 0o600, b"x"),
    Entry("etc/queue/edited", 0o644, b"before"),
    Entry("usr/bin/queue", 0o755, b"x"),
    Entry("usr/bin/tool", 0o4755, b"x"),
    Entry("usr/bin/given-back", 0o755, b"x", **APP),  # type: ignore[arg-type]
    *(Entry(f"usr/bin/{x}", 0o755, b"x", **APP) for x in ("back-1", "back-2", "back-3", "anew")),  # type: ignore[arg-type]
    Entry("usr/bin/was-pinger", 0o755, b"x", xattrs={"security.capability": MAY_PING}),
    Entry("lib/modules-load.d/app.conf", 0o644, b"x"),
    Entry("lib/firmware-own/x", 0o644, b"x"),
    Entry("usr/bin/of-group", 0o755, b"x", **OF_GROUP),  # type: ignore[arg-type]
    Entry("usr/bin/of-user", 0o755, b"x", uid=850, user="app"),
    Entry("usr/bin/of-both", 0o755, b"x"),
    Entry("merged", 0o777, target="usr/merged"),
    Entry("absolute", 0o777, target="/usr/merged"),
    Entry("etc/app/link", 0o777, target="/etc/passwd"),
)


def package(name: str, *entries: Entry, **scripts: bytes) -> Draft:
    """A package with these files, and with what its scripts need."""
    named = {script.replace("_", "-"): text for script, text in scripts.items()}
    return draft(name, "1.0-r0", "a test", entries, named, D="busybox python3")


@pytest.fixture
def project(offer_project: Project) -> Project:
    return offer_project


def want(project: Project, *names: str) -> None:
    with (project.root / "rootfs/world").open("a") as world:
        world.write("".join(f"{name}\n" for name in names))


def lay_over(project: Project, path: str, text: str = "x\n", mode: int = 0o644) -> Path:
    file = project.root / "rootfs/overlay" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def listed(in_container: InContainer, project: Project) -> dict[str, str]:
    """Mode and owner of each file of the root part."""
    # As bytes: what a job prints is text.
    output = in_container("unsquashfs -lln in/root | base64", root=project.build / "root.squashfs")
    output = os.fsdecode(base64.b64decode(output))
    rows = [line.split(" ", 1) for line in output.splitlines() if "squashfs-root" in line]
    found = {}
    for mode, rest in rows:
        owner = rest.split()[0]
        found[rest.partition("squashfs-root/")[2].partition(" -> ")[0]] = f"{mode} {owner}"
    return found


def test_what_packages_say_arrives_from_both_engines(
    offer: Offer, project: Project, in_container: InContainer, docker_host: str
) -> None:
    offer.add(package("app", *ENTRIES, pre_install=ADDS_USER, post_install=SETS_OWNERS))
    want(project, "app")
    # In the place of a file that is private it stays private, but isn't setuid; a folder that the
    # root has stays what it is.
    lay_over(project, "usr/bin/noexec")
    lay_over(project, "var/spool/app/mine")
    lay_over(project, "usr/bin/laid-over")
    project.inv("rootfs")
    by_bubblewrap = (project.build / "root.squashfs").read_bytes()
    project.env |= {"DOCKER_HOST": docker_host, "BELAY_BUILD_ENGINE": "docker"}
    project.inv("chroot", "--force")
    project.inv("rootfs", "--force")
    assert (project.build / "root.squashfs").read_bytes() == by_bubblewrap
    found = listed(in_container, project)
    wanted = {**WANTED, "usr/bin/noexec": "-rw-r----- 850/850", "etc/shadow": "-rw-r----- 0/42"}
    assert {path: found.get(path) for path in wanted} == wanted
    assert found["var/spool/app/mine"] == "-rw-r--r-- 0/0"
    output = in_container(
        "unsquashfs -d /tmp/all in/root >&2; cd /tmp/all; "
        "stat -c %i usr/bin/twin usr/bin/postdrop; getfattr -R -h -d -m - -e hex usr etc",
        root=project.build / "root.squashfs",
    )
    assert len(set(re.findall(r"^\d+$", output, re.MULTILINE))) == 1
    attributes = re.findall(r"^# file: (.*)\n(.*)=0x(.*)$", output, re.MULTILINE)
    assert {(path, name): bytes.fromhex(value) for path, name, value in attributes} == {
        ("usr/bin/pinger", "security.capability"): MAY_PING,
        ("etc/app/two  ta\\134gs ", "user.tag"): b"one two",
        ("usr/bin/queue", "user.by-script"): b"yes",
    }


def test_the_overlay_may_lie_below_links_of_the_root(
    offer: Offer, project: Project, in_container: InContainer
) -> None:
    offer.add(package("app", *ENTRIES, pre_install=ADDS_USER))
    want(project, "app")
    lay_over(project, "merged/sub/one")
    lay_over(project, "absolute/two")
    lay_over(project, "etc/app/link", "mine\n")  # takes the place of the link, not of its target
    project.inv("rootfs")
    found = listed(in_container, project)
    assert found["merged"].startswith("lrwx") and found["absolute"].startswith("lrwx")
    assert {"usr/merged/sub/one", "usr/merged/two"} <= found.keys()
    assert found["etc/app/link"] == "-rw-r--r-- 0/0"
    root = project.build / "root.squashfs"
    passwd = in_container("unsquashfs -cat in/root etc/passwd", root=root)
    assert passwd.startswith("root:"), "what the link led to is as it was"
    lay_over(project, "lib/firmware/vendor/extra.bin", mode=0o600)
    project.inv("slot")
    output = in_container("unsquashfs -lln in/modloop", modloop=project.build / "modloop.squashfs")
    (line,) = (line for line in output.splitlines() if "extra.bin" in line)
    assert line.startswith("-rw-r--r-- 0/0 ")
    assert line.endswith(" squashfs-root/firmware/vendor/extra.bin")
    assert not [path for path in listed(in_container, project) if "extra.bin" in path]
    lay_over(project, "lib/modules/own.ko")
    done = project.run("rootfs")
    assert done.returncode == 1
    assert "rootfs/overlay/lib/modules: what a node has there comes from" in done.stderr


def test_a_python_file_of_the_overlay_counts_more_than_bytecode(
    project: Project, in_container: InContainer
) -> None:
    lay_over(project, "usr/lib/python3.13/hmac.py", 'print("mine")\n')
    project.inv("rootfs")
    output = in_container(
        "unsquashfs -q -n -d /tmp/all in/root >&2; chroot /tmp/all python3 -B -c 'import hmac'",
        root=project.build / "root.squashfs",
    )
    assert output == "mine\n"


def test_modes_and_owners_of_the_overlay_are_asked_for(
    offer: Offer, project: Project, in_container: InContainer
) -> None:
    offer.add(package("app", *ENTRIES, pre_install=ADDS_USER))
    want(project, "app")
    lay_over(project, "etc/secret/key", mode=0o600)
    lay_over(project, "merged/tool", mode=0o755)
    lay_over(project, "etc/secret/two  blanks", mode=0o600)
    done = project.run("rootfs")
    assert done.returncode == 0, done.stderr
    assert "rootfs/overlay/etc/secret/key and 1 more: only you may read it here" in done.stderr
    assert listed(in_container, project)["etc/secret/key"] == "-rw-r--r-- 0/0"

    modes = project.root / "rootfs/overlay.modes"
    modes.write_text(
        "# what git doesn't keep\n700 root:root etc/secret\n640 root:app etc/secret/key\n"
        "4755 850:0 /merged/tool\n600 app:app etc/secret/two  blanks\n"
    )
    done = project.run("rootfs")
    assert done.returncode == 0 and "only you may read" not in done.stderr
    found = listed(in_container, project)
    wanted = {
        "etc/secret": "drwx------ 0/0",
        "etc/secret/key": "-rw-r----- 0/850",
        "usr/merged/tool": "-rwsr-xr-x 850/0",
        "etc/secret/two  blanks": "-rw------- 850/850",
    }
    assert {path: found.get(path) for path in wanted} == wanted

    lay_over(project, "lib/firmware/own.bin")
    (project.root / "rootfs/overlay/etc/secret/empty").mkdir()
    (project.root / "rootfs/overlay/etc/secret/link").symlink_to("key")
    for line, output in {
        "640 root:app etc/nothing": "overlay.modes:1: there is no file or folder etc/nothing in",
        "640 root:app etc/secret/empty": "there is no file or folder etc/secret/empty in",
        "640 root:app ../world": "rootfs/overlay.modes:1: there is no file or folder ../world in",
        "640 root:app /": "rootfs/overlay.modes:1: there is no file or folder . in",
        "640 root:app etc/secret/link": "overlay.modes:1: etc/secret/link is a link, which has no",
        "640 root:app lib/firmware/own.bin": "what lies in lib/firmware is root's, and 644",
        "640 4294967295:0 etc/secret/key": "found 4294967295, wanted a name, or a number up to",
        "# \udcff\n640 0:0 etc/secret/key\n600 0:0 /etc/secret/key": "modes:3: etc/secret/key has",
        "rw root:root etc/secret": 'found "rw root:root etc/secret", wanted MODE OWNER:GROUP PATH',
        "640 nobody-here:root etc/secret/key": "the image has no user nobody-here",
        "640 root:none etc/secret/key": "the image has no group none",
    }.items():
        modes.write_bytes(os.fsencode(f"{line}\n"))
        done = project.run("rootfs")
        assert done.returncode == 1 and output in done.stderr, done.stderr


def test_the_overlay_lays_nothing_open_and_hides_nothing(
    offer: Offer, project: Project, in_container: InContainer
) -> None:
    offer.add(package("app", *ENTRIES, pre_install=ADDS_USER))
    want(project, "app")
    lay_over(project, "etc/shadow", "root:*::0:::::\n", mode=0o644)
    lay_over(project, "etc/queue/key")
    project.inv("rootfs")
    found = listed(in_container, project)
    assert (found["etc/shadow"], found["etc/queue/key"]) == ("-rw-r----- 0/42", "-rw------- 0/0")
    for path, output in {
        "run/lock/mine": "rootfs/overlay/run: a node makes it anew at each boot",
        "etc/queue/key/below": "rootfs/overlay/etc/queue/key: packages have a file there",
        "etc/app": "rootfs/overlay/etc/app: packages have a folder there, and this is none",
        "etc/passwd": "rootfs/overlay/etc/passwd: app has number 851, and 850 in apk.lock",
    }.items():
        shutil.rmtree(project.root / "rootfs/overlay/etc/queue")
        file = lay_over(project, path, "app:x:851:850::/:/bin/sh\n")
        done = project.run("rootfs")
        assert done.returncode == 1 and output in done.stderr, done.stderr
        file.unlink()
        (project.root / "rootfs/overlay/etc/queue").mkdir(exist_ok=True)


def with_user(name: str) -> Draft:
    """A package whose user and group have the next free number, and a folder."""
    folder = Entry(f"var/lib/{name}", 0o750, user=name, group=name)
    adds = f"#!/bin/sh\naddgroup -S {name}\nadduser -S -G {name} {name}\nexit 0\n"
    gives = f"#!/bin/sh\ntouch /etc/{name}\nchown {name}:{name} /etc/{name}\n"
    return package(name, folder, pre_install=adds.encode(), post_install=gives.encode())


def test_users_and_groups_keep_their_numbers(
    offer: Offer, project: Project, in_container: InContainer
) -> None:
    offer.add(with_user("anna"), with_user("bert"), with_user("carl"))

    def numbers(*names: str) -> dict[str, str]:
        """Whose the file of each is, and its folder, by all that the image says of them."""
        project.inv("rootfs")
        found = listed(in_container, project)
        script = "unsquashfs -cat in/root etc/passwd etc/group lib/apk/db/installed"
        output = in_container(script, root=project.build / "root.squashfs")
        owners = {}
        for name in names:
            owner = found[f"etc/{name}"].split()[1]
            assert found[f"var/lib/{name}"] == f"drwxr-x--- {owner}"
            uid, gid = owner.split("/")
            assert f"\n{name}:x:{uid}:{gid}:" in output, "passwd"
            assert f"\n{name}:x:{gid}:" in output, "group"
            assert f"\nF:var/lib/{name}\nM:{uid}:{gid}:750\n" in output, "apk's database"
            owners[name] = owner
        return owners

    want(project, "bert")
    before = numbers("bert")
    want(project, "anna")
    done = project.run("rootfs")
    assert "apk.lock: user anna has number" in done.stderr
    assert "bert has number" not in done.stderr
    found = numbers("anna", "bert")
    assert found["bert"] == before["bert"] != found["anna"]

    # A line that is lost by hand comes back, with a lock that is lost all of them.
    lock = project.root / "apk.lock"
    lines = lock.read_text().splitlines(keepends=True)
    lock.write_text("".join(line for line in lines if not line.startswith("anna = ")))
    assert "user anna has number" in project.inv("lock")
    project.git("add", "-A")
    project.git("commit", "-qm", "two")
    lock.unlink()
    assert numbers("anna", "bert") == found

    # Bert goes, and nobody gets his numbers, not in a new lock either.
    world = project.root / "rootfs/world"
    world.write_text(world.read_text().replace("bert\n", "carl\n"))
    project.inv("lock", "--upgrade")
    last = numbers("anna", "carl")
    assert last["anna"] == found["anna"]
    assert last["carl"] not in found.values()
    table = tomli.loads(lock.read_text())
    assert {"anna", "bert", "carl", "nobody"} <= table["users"].keys() & table["groups"].keys()


def test_packages_come_from_repositories_beyond_the_mirror(
    project: Project, in_container: InContainer, tmp_path: Path
) -> None:
    (tmp_path / "own/x86_64").mkdir(parents=True)
    key = new_key(project.root / "me@example.org-5f.rsa.pub")
    reel = package("reel", Entry("usr/bin/reel", 0o755, b"x"))
    write_repository(tmp_path / "own/x86_64", [reel], key)
    server = Mirror(tmp_path / "own")
    image = project.root / "image.toml"
    own = f'{{url = "{server.url}", key = "{key.name}", tag = "mine"}}'
    image.write_text(
        image.read_text().replace('"main", "community"', f'"main", "community", {own}')
    )
    want(project, "reel@mine", "musl>1", "!nothing")
    project.inv("rootfs")
    server.close()
    assert listed(in_container, project)["usr/bin/reel"] == "-rwxr-xr-x 0/0"
    root = project.build / "root.squashfs"
    world = in_container("unsquashfs -cat in/root etc/apk/world", root=root).split()
    assert {"reel", "musl>1", "!nothing"} <= set(world)

    want(project, "one,two")
    done = project.run("rootfs")
    assert done.returncode == 1
    assert 'rootfs/world:21: found "one,two", wanted packages, like "curl", ' in done.stderr


TRUSTED = Entry("usr/bin/odd", 0o755, b"x", xattrs={"trusted.odd": b"1"})
# An access control list that lets one more user read: struct posix_acl_xattr, and its entries.
LISTS_READERS = b"""#!/bin/sh
exec python3 -c '
import os, struct
rows = (1, 6, -1), (2, 4, 0), (4, 4, -1), (16, 4, -1), (32, 0, -1)
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)
os.setxattr("/etc/listed", "system.posix_acl_access", acl)'
"""


@pytest.mark.parametrize(
    ("wrong", "output"),
    [
        (
            package("pipe", post_install=b"#!/bin/sh\nmkfifo /var/pipe\n"),
            "a package has var/pipe, which is a device, a pipe or the like",
        ),
        (
            package("null", Entry("usr/lib/null", 0o666, device=(1, 3))),
            "null-1.0-r0 has usr/lib/null, which is a device, a pipe or the like",
        ),
        (package("odd", TRUSTED), "odd-1.0-r0 has extended attributes that can't be set here"),
        (
            package("acl", Entry("etc/listed", 0o640, b"x"), post_install=LISTS_READERS),
            "a script of a package gives etc/listed sys",
        ),
    ],
    ids=["pipe", "device", "attribute", "acl"],
)
def test_what_an_image_cant_hold_is_refused(
    offer: Offer, project: Project, wrong: Draft, output: str
) -> None:
    offer.add(wrong)
    want(project, wrong.fields["P"])
    done = project.run("rootfs")
    assert done.returncode == 1
    assert output in done.stderr
