"""The real init, with the busybox that it runs with, unprivileged: what it applies and fetches."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.core.paths import PROJECT
from tests.apkovl import archive, entry
from tests.unit.test_init import GUID, MOCK, SLOT

pytestmark = pytest.mark.container

Run = Callable[..., str]

# A machine whose partition vda4 has the slot, and a stick sda1 whose content is in/stick.
SCRIPT = """
export ROOT=/tmp/root MOCK=/tmp/mock NOTES=/tmp/notes FAILING= SLOT_TIMEOUT_S=1
cp in/mock $MOCK && chmod +x $MOCK
for folder in proc dev newroot/etc/apk newroot/etc/belay newroot/root \
	newroot/etc/runlevels/default sys/class/block/vda4 belay/below/sbin \
	belay/below/etc/apk belay/below/etc/runlevels/default; do
	mkdir -p $ROOT/$folder
done
cd $ROOT
printf 'PARTN=4\\nPARTUUID={guid}\\n' >sys/class/block/vda4/uevent
cp /srv/in/slot dev/vda4 && touch dev/sda1
ln -s /bin/busybox belay/below/sbin/init
echo busybox >belay/below/etc/apk/world
for service in syslog crond belay-gate; do
	ln -s /etc/init.d/$service belay/below/etc/runlevels/default/$service
	ln -s /etc/init.d/$service newroot/etc/runlevels/default/$service
done
cp -R /srv/in/stick belay/media
mkdir -p sys/class/net/eth0 && touch dev/null
echo "belay.slot=b belay.partuuid={guid} {argument}" >proc/cmdline
{prepare}
sh ${INIT:-/srv/in/init} || echo "exit $?"
echo ---
cat newroot/etc/belay/boot-warnings 2>/dev/null || true
grep -h 'mount -t overlay' $NOTES || true
[ ! -d belay/above/ovl ] || (cd belay/above/ovl && find . -type f | sort)
ls newroot/etc/runlevels/default | tr '\\n' ' '
cat newroot/etc/apk/world belay/below/etc/apk/world 2>/dev/null | head -n 2 | tr '\\n' ' '
"""
MOUNTED = "lowerdir=/tmp/root/belay/above/ovl:/tmp/root/belay/below,"
PLAIN = "lowerdir=/tmp/root/belay/below,"


@pytest.fixture
def boot(in_container: Run, tmp_path: Path) -> Callable[..., str]:
    """Boots with these files on the stick, and returns what it said and did."""

    def run(argument: str, prepare: str = "", **stick: bytes) -> str:
        folder = tmp_path / "stick"
        folder.mkdir()
        for name, data in stick.items():
            (folder / f"{name}.apkovl.tar.gz").write_bytes(data)
        (tmp_path / "mock").write_text(MOCK)
        (tmp_path / "slot").write_bytes(SLOT)
        script = SCRIPT.replace("{guid}", GUID).replace("{argument}", argument)
        script = script.replace("{prepare}", prepare)
        inputs = {name: tmp_path / name for name in ("mock", "slot", "stick")}
        return in_container(script, init=PROJECT / "initramfs/init", **inputs)

    return run


def test_an_overlay_is_laid_over_the_root(boot: Callable[..., str]) -> None:
    """Its services are those of the system, but for Belay's own; the packages are both's."""
    data = archive(
        entry("etc/runlevels/default/syslog", tarfile.SYMTYPE, "/etc/init.d/syslog"),
        etc__apk__world="curl\n",
        etc__motd="hello\n",
    )
    output = boot("apkovl=/dev/sda1:vfat:/host.apkovl.tar.gz", host=data)
    assert "belay: applied an apkovl" in output
    assert MOUNTED in output and "./etc/motd" in output
    assert output.endswith("belay-gate syslog busybox curl ")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (archive(entry("/etc/shadow")), "has paths that lead out of it"),
        (archive(entry("etc/../../shadow")), "has paths that lead out of it"),
        (archive(entry("etc/null", tarfile.CHRTYPE)), "has device files or pipes"),
        (archive(entry("etc/disk", tarfile.BLKTYPE)), "has device files or pipes"),
        (archive(entry("etc/pipe", tarfile.FIFOTYPE)), "has device files or pipes"),
        (archive(entry("etc/link", tarfile.LNKTYPE, "/etc/shadow")), "has hard links"),
        (archive(etc__motd="hello" * 10_000)[:-30], "is damaged"),
        (b"no archive at all", "is damaged"),
    ],
    ids=["absolute", "dots", "whiteout", "disk", "pipe", "hard link", "truncated", "garbage"],
)
def test_a_hostile_overlay_is_not_applied(
    boot: Callable[..., str], data: bytes, reason: str
) -> None:
    output = boot("apkovl=sda1:/host.apkovl.tar.gz", host=data)
    assert f"apkovl host.apkovl.tar.gz is not applied: it {reason}" in output.split("---")[1]
    assert PLAIN in output and "exit" not in output


@pytest.mark.parametrize(
    ("apkovl", "message"),
    [
        ("apkovl=sda1", "wanted auto, data, node, slot, a URL or DEVICE:"),
        ("apkovl=http://127.0.0.1:9/x.apkovl.tar.gz", "x.apkovl.tar.gz can't be fetched"),
        ("apkovl=sdz9:/x.apkovl.tar.gz", "there is no such volume"),
        ("apkovl=sda1:/other.apkovl.tar.gz", "there is no other.apkovl.tar.gz"),
        ("apkovl=sda1:/*.apkovl.tar.gz", "there are several, and none is applied"),
        ("apkovl=data", "there is no such volume"),
    ],
)
def test_what_cannot_be_found_is_said(boot: Callable[..., str], apkovl: str, message: str) -> None:
    output = boot(apkovl, one=archive(etc__motd="1"), two=archive(etc__motd="2"))
    assert message in output.split("---")[1]
    assert PLAIN in output and "exit" not in output


USB = """
echo '5.00 1.00' >proc/uptime
mkdir -p sys/bus/usb/devices/1-1:1.0 && echo 08 >sys/bus/usb/devices/1-1:1.0/bInterfaceClass
rm dev/sda1
"""
# Labels, as blkid finds them: that of the own disk, of another with a system, and of the stick.
LABELS = """
mkdir -p belay/below/etc/belay && echo BELAY >belay/below/etc/belay/node-label
mkdir -p sys/class/block/vda5 sys/devices/sdb/sdb1 sys/devices/sdb/sdb5 sys/devices/sda/sda1
echo PARTNAME=node >sys/class/block/vda5/uevent
echo PARTNAME=slot-a >sys/devices/sdb/sdb1/uevent
for name in sda/sda1 sdb/sdb5; do
	touch sys/devices/$name/partition sys/devices/$name/uevent
	ln -s $ROOT/sys/devices/$name sys/class/block/${name#*/}
done
touch dev/vda5 dev/sdb5
cat >/tmp/blkid <<'END'
#!/bin/sh
for name in sdb5 vda5 sda1; do
	[ ! -e /tmp/root/dev/$name ] || echo "/dev/$name: LABEL=\"BELAY\" TYPE=\"vfat\""
done
END
chmod +x /tmp/blkid
INIT=/tmp/init
sed 's|blkid |/tmp/blkid |' /srv/in/init >$INIT
"""


@pytest.mark.parametrize(
    ("argument", "more"), [("apkovl=sda1:/host.apkovl.tar.gz", ""), ("apkovl=node", LABELS)]
)
def test_an_overlay_of_a_stick_that_comes_later_is_applied(
    boot: Callable[..., str], argument: str, more: str
) -> None:
    """As one behind a hub does."""
    later = "(sleep 1.5; touch dev/sda1) &"
    output = boot(argument, f"{USB}{more}{later}", host=archive(etc__motd="hello\n"))
    assert "belay: applied an apkovl" in output and MOUNTED in output, output


@pytest.mark.parametrize(
    ("argument", "mounted"),
    [
        ("apkovl=sda1:/host.apkovl.tar.gz", ""),
        ("apkovl=node", "/dev/vda5"),
        ("apkovl=auto", "/dev/vda5"),
    ],
)
def test_a_stick_that_never_comes_holds_no_boot(
    boot: Callable[..., str], argument: str, mounted: str
) -> None:
    """The own disk's volume counts then; that of another disk with a system never does."""
    report = "trap \"grep -h 'nosuid,nodev\\|losetup -r' $NOTES\" EXIT"
    output = boot(argument, f"{USB}{LABELS}export STICK_S=1 USB_QUIET=0\n{report}", host=b"")
    assert "exit" not in output and PLAIN in output, "the system starts"
    parts = [line for line in output.splitlines() if "losetup -r" in line]
    assert len(parts) == 2 and all(line.endswith("/dev/vda4") for line in parts), output
    if mounted:
        assert f"{mounted} /tmp/root/belay/media" in output and "sdb5" not in output, output
    else:
        assert "there is no such volume" in output


# Answers one request of init, of this machine to itself.
SERVE = """
printf 'MemAvailable: {free} kB\\n' >proc/meminfo
(printf 'HTTP/1.0 {status}\\r\\n\\r\\n'; {body}) | nc -l -p 8000 >/dev/null &
until grep -q ':1F40 .* 0A ' /proc/net/tcp*; do kill -0 $!; sleep 0.1; done
"""
NETBOOT = (
    f"belay.netboot=http://127.0.0.1:8000/slot.img belay.size={len(SLOT)} "
    f"belay.sha256={hashlib.sha256(SLOT).hexdigest()}"
)


def served(status: str = "200 OK", body: str = "cat /srv/in/slot", free_mib: int = 1024) -> str:
    replaced = SERVE.replace("{status}", status).replace("{body}", body)
    return replaced.replace("{free}", str(free_mib << 10))


def test_a_system_is_fetched(boot: Callable[..., str]) -> None:
    output = boot(NETBOOT, served())
    assert "bringing http://127.0.0.1:8000/slot.img" in output
    assert PLAIN in output and "exit" not in output


def test_the_watchdog_is_fed_while_bytes_come(boot: Callable[..., str]) -> None:
    """A slow line is no hang; a line from which nothing comes any more is one."""
    count = "; trap 'echo fed $(wc -l <dev/watchdog)' EXIT"
    ready = "touch dev/watchdog; export NET_TIMEOUT_S=3; "
    page = "dd if=/srv/in/slot bs=4096 count=1 2>/dev/null skip="
    slow = served(body=f"for at in 0 1 2 3; do {page}$at; sleep 1; done")
    output = boot(NETBOOT, ready + slow.strip() + count)
    assert PLAIN in output and "exit" not in output
    assert int(output.split("fed ")[1]) >= 9, output


def test_the_watchdog_is_not_fed_while_nothing_comes(boot: Callable[..., str]) -> None:
    count = "; trap 'echo fed $(wc -l <dev/watchdog)' EXIT"
    ready = "touch dev/watchdog; export NET_TIMEOUT_S=3; "
    stalled = served(body="head -c 4096 /srv/in/slot; sleep 20")
    output = boot(NETBOOT, ready + stalled.strip() + count)
    assert "slot.img can't be fetched" in output
    assert int(output.split("fed ")[1]) <= 4, output


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (served(body="head -c -4096 /srv/in/slot"), f"has {len(SLOT) - 4096} bytes, wanted"),
        (served(body="tr h j </srv/in/slot"), r"has the SHA-256 [0-9a-f]{64}, wanted"),
        (served("404 Not Found", "true"), "slot.img can't be fetched"),
        (served(free_mib=90), r"90 MiB of memory are free; the system takes \d+"),
        ("export FAILING=udhcpc", "no network card got an address by DHCP"),
    ],
    ids=["truncated", "changed", "missing", "too little memory", "no network"],
)
def test_what_cannot_be_fetched_whole_is_not_started(
    boot: Callable[..., str], prepare: str, message: str
) -> None:
    output = boot(NETBOOT, prepare)
    assert re.search(f"belay: slot net can't boot: .*{message}", output), output
    assert "exit 1" in output and "lowerdir" not in output
