"""What services make of a node's network cards: here they are folders, which `ip` renames."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.core.paths import PROJECT
from tests.services import add_library

OVERLAY = PROJECT / "rootfs/overlay"
IP = """#!/bin/sh
echo "$*" >>"$ROOT/done"
case "$*" in
*" name "*) cd "$ROOT/sys/class/net" && [ ! -e "$6" ] && mv "$4" "$6" ;;
esac
"""
NOTE = '#!/bin/sh\necho "${0##*/} $*" >>"$ROOT/done"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("sys/class/net/lo", "proc", "run/belay/node", "etc/network", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    add_library(tmp_path)
    (tmp_path / "sys/class/net/lo/type").write_text("772\n")
    (tmp_path / "proc/uptime").write_text("5.00 1.00\n")
    (tmp_path / "etc/network/interfaces").write_text(
        (OVERLAY / "etc/network/interfaces").read_text()
    )
    for name, text in (("ip", IP), ("ifup", NOTE), ("ifdown", NOTE)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def add_card(root: Path, name: str, address: str = "", link: bool = True, **more: str) -> None:
    card = root / "sys/class/net" / name
    (card / "device").mkdir(parents=True)
    (card / "type").write_text(more.get("type", "1") + "\n")
    (card / "address").write_text(address + "\n")
    (card / "carrier").write_text(f"{int(link)}\n")
    if "wireless" in more:
        (card / "wireless").mkdir()


def sh(root: Path, service: str, command: str) -> str:
    text = (OVERLAY / "etc/init.d" / service).read_text()
    more = "ebegin() { :; }; eend() { :; }; card_s=1; link_s=1"
    done = subprocess.run(
        ["sh", "-uc", f"{text}\n{more}\n{command}"],
        env={"ROOT": str(root), "PATH": f"{root}/bin:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout + done.stderr


def event(root: Path, action: str, name: str) -> None:
    subprocess.run(
        [OVERLAY / "usr/lib/belay/card"],
        env={
            "ROOT": str(root),
            "PATH": f"{root}/bin:/usr/bin:/bin",
            "ACTION": action,
            "INTERFACE": name,
        },
        stdin=subprocess.DEVNULL, check=True, timeout=60,
    )  # fmt: skip


def test_every_wired_card_asks_for_an_address(root: Path) -> None:
    add_card(root, "eth0", link=False)
    add_card(root, "enp3s0")
    add_card(root, "wlan0", wireless="yes")
    add_card(root, "can0", type="280")
    (root / "sys/class/net/br0").mkdir()
    assert sh(root, "belay-network", "start") == ""
    assert (root / "run/belay/interfaces").read_text() == (
        "auto enp3s0\niface enp3s0 inet dhcp\n"
        "auto eth0\niface eth0 inet dhcp\n\tudhcpc-opts -t 1 -T 1 -A 3\n"
    )
    assert (root / "done").read_text() == "link set dev enp3s0 up\nlink set dev eth0 up\n"


def test_without_a_card_there_is_an_empty_file(root: Path) -> None:
    """One that is named and isn't there could not be parsed."""
    (root / "proc/uptime").write_text("999.00 1.00\n")
    command = "wait_for() { :; }; start"
    assert sh(root, "belay-network", command) == ""
    assert (root / "run/belay/interfaces").read_text() == ""


def test_interfaces_that_somebody_wrote_count(root: Path) -> None:
    (root / "etc/network/interfaces").write_text("auto eth0\niface eth0 inet static\n")
    add_card(root, "eth0")
    sh(root, "belay-network", "start")
    assert not (root / "run/belay/interfaces").exists() and not (root / "done").exists()


ONE, TWO, THREE = (f"02:00:00:00:00:{number}" for number in ("0a", "b0", "03"))


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (f"eth0 {TWO}\neth1 {ONE}\n", {"eth0": TWO, "eth1": ONE, "eth2": THREE}),
        (f"eth1 {ONE}\r\neth2 {TWO}\neth0 {THREE}", {"eth0": THREE, "eth1": ONE, "eth2": TWO}),
        (f"# mine\n\nlan {ONE.upper()} # left\n", {"lan": ONE, "eth1": TWO, "eth2": THREE}),
        # The one whose name is taken away gets the first that is free.
        (f"eth0 {THREE}\n", {"eth0": THREE, "eth1": TWO, "eth2": ONE}),
        (f"eth0 {ONE}\n", {"eth0": ONE, "eth1": TWO, "eth2": THREE}),
        (f"DMZ {ONE.upper()}\n", {"DMZ": ONE, "eth1": TWO, "eth2": THREE}),
        ("a-name-of-15-ch " + ONE, {"a-name-of-15-ch": ONE, "eth1": TWO, "eth2": THREE}),
    ],
)
def test_cards_get_the_names_of_the_table(root: Path, table: str, names: dict[str, str]) -> None:
    for number, address in enumerate((ONE, TWO, THREE)):
        add_card(root, f"eth{number}", address)
    (root / "run/belay/node/mactab").write_text(table)
    sh(root, "belay-network", "start")
    cards = root / "sys/class/net"
    found = {path.parent.name: path.read_text().strip() for path in cards.glob("*/address")}
    assert found == names
    assert not (root / "run/belay/warnings").exists()


def test_a_card_that_is_not_there_is_told(root: Path) -> None:
    add_card(root, "eth0", ONE)
    (root / "run/belay/node/mactab").write_text(f"lan {TWO}\nwan {ONE}\n")
    sh(root, "belay-network", "start")
    warnings = (root / "run/belay/warnings").read_text()
    assert warnings == f"mactab: no card has the address {TWO}\n"
    assert (root / "sys/class/net/wan").exists()


def test_a_card_that_comes_later_has_its_name_and_asks_for_its_address(root: Path) -> None:
    """Those that are there keep what they have."""
    add_card(root, "eth0", ONE)
    (root / "run/belay/node/mactab").write_text(f"lan {TWO}\neth0 {THREE}\n")
    sh(root, "belay-network", "start")
    (root / "done").unlink()
    add_card(root, "eth1", TWO)
    event(root, "add", "eth1")
    assert (root / "run/belay/warnings").read_text() == (
        f"mactab: no card has the address {THREE}\n"
    )
    assert "iface lan inet dhcp\n" in (root / "run/belay/interfaces").read_text()
    assert (root / "done").read_text() == (
        "link set dev eth1 down\nlink set dev eth1 name lan\nlink set dev lan up\nifup -a -I lan\n"
    )

    add_card(root, "eth1", THREE)
    event(root, "add", "eth1")
    event(root, "add", "eth1")
    assert (root / "sys/class/net/eth0/address").read_text() == f"{ONE}\n"
    assert (root / "run/belay/warnings").read_text() == (
        "mactab: eth1 is called eth0 from the next boot on: another card has that name now\n"
    )
    assert (root / "done").read_text().endswith("ifup -a -I eth1\n")


def test_a_card_that_went_leaves_nothing_to_the_next(root: Path) -> None:
    (root / "run/ifstate").write_text("lo=lo 1\neth1=eth1 1 explicit\n")
    event(root, "remove", "eth1")
    event(root, "remove", "veth12")
    event(root, "remove", "eth")
    assert (root / "done").read_text() == "ifdown --force eth1\n"
    (root / "sys/class/net/veth12").mkdir()
    event(root, "add", "veth12")
    assert (root / "done").read_text() == "ifdown --force eth1\n"


def test_name_servers_of_static_addresses_are_used(root: Path) -> None:
    script = OVERLAY / "etc/network/if-up.d/dns"
    file = root / "etc/resolv.conf"

    def up(**values: str) -> str:
        env = {"ROOT": str(root), "PATH": "/usr/bin:/bin", **values}
        subprocess.run([script], env=env, check=True, timeout=60)
        return file.read_text() if file.exists() else ""

    assert up() == ""
    wanted = "search lan\nnameserver 10.0.2.3\nnameserver fd00::3\n"
    assert up(IF_DNS_NAMESERVERS="10.0.2.3 fd00::3", IF_DNS_SEARCH="lan") == wanted
    assert up(IF_DNS_NAMESERVERS="1.1.1.1 10.0.2.3", IF_DNS_DOMAIN="home") == (
        "search home\nnameserver 1.1.1.1\nnameserver 10.0.2.3\nnameserver fd00::3\n"
    )
    assert up().startswith("search home\n")
