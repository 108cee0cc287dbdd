"""image.toml: good values arrive, each mistake is named with its line and its remedy."""

from pathlib import Path

import pytest

from builder.core.config import Config, OwnRepository, load_config
from builder.core.errors import UserError
from builder.core.paths import CONFIG_FILE


def load(tmp_path: Path, text: str, **environ: str) -> Config:
    path = tmp_path / "image.toml"
    path.write_text(text)
    return load_config(path, environ)


def test_the_shipped_file_is_valid() -> None:
    assert load_config(CONFIG_FILE, {}).alpine.branch == "v3.23"


def test_what_is_not_given_has_its_default(tmp_path: Path) -> None:
    config = load(tmp_path, "[disk]\nslot_mib = 100\n")
    assert (config.disk.slot_mib, config.disk.data_mib) == (100, 64)
    assert (
        load(tmp_path, "").disk.slot_mib
        == load(tmp_path, '[disk]\nslot_mib = "auto"\n').disk.slot_mib
    )
    assert config.login.console == "locked", "a console without a password has to be asked for"


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    text = '[alpine]\nkernel = "virt"\n'
    environ = {"BELAY_ALPINE_KERNEL": "lts", "BELAY_DISK_SLOT_MIB": "64"}
    config = load(tmp_path, text, **environ, BELAY_BOOT_FEATURES="belay usb")
    assert config.alpine.kernel == "lts"
    assert config.disk.slot_mib == 64
    assert config.boot.features == ("belay", "usb")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[os]\n\n[alpine]\nrelase = 1\n", 'image.toml:4: [alpine] unknown key "relase", did'),
        ("[alpin]\n", 'image.toml:1: [alpin] unknown section "alpin", did you mean "alpine"?'),
        ("alpine = 3\n", "image.toml:1: [alpine] found 3, wanted a section"),
        ("[disk]\nslot_mib = '1'\n", "image.toml:2: [disk] slot_mib: found '1', wanted a whole"),
        ("[disk]\nslot_mib = 1\n", 'wanted a whole number from 32 to 65536, or "auto"'),
        ("[disk]\nslot_mib = 0\n", "found 0, wanted a whole number"),
        ("[disk]\ndata_mib = 'auto'\n", "wanted a whole number from 16 to 1048576"),
        ("[disk]\nslot_mib = true\n", "found True, wanted a whole number"),
        ("[alpine]\nkernel = 'vrit'\n", '[alpine] kernel: found \'vrit\', wanted "virt" or "lts"'),
        ("[alpine]\nmirror = 'ftp://x'\n", '"auto", "sample", or an http(s) URL'),
        ("[boot]\nfeatures = 'usb'\n", 'wanted a list of strings: ["a", "b"]'),
        ("[boot]\ncmdline = 'a; reboot'\n", "without quotes, shell characters"),
        ("[boot]\nfeatures = ['ata']\n", 'image.toml:2: [boot] features: wanted "belay" among'),
        ("[update]\nwindow = '25-4'\n", "two different hours from 0 to 23, like 22-4"),
        ("[update]\nwindow = '22-22'\n", "two different hours from 0 to 23, like 22-4"),
        ("[boot]\ncmdline = '#quiet'\n", "and words that begin with #"),
        ("[boot]\ncmdline = 'quiet #debug'\n", "and words that begin with #"),
        ("[boot]\ncmdline = 'a\tb'\n", "at most 1500 ASCII characters"),
        (f"[boot]\ncmdline = '{'a' * 1501}'\n", "at most 1500 ASCII characters"),
        ("[os]\nname = 1\n", "[os] name: found 1, wanted a string in quotes"),
        ("[os\n", "image.toml: is not valid TOML"),
        ("[alpine]\nrepositories = [{key = 'a'}]\n", "repositories: url: found '', wanted an http"),
        ("[alpine]\nrepositories = [{ulr = 'a'}]\n", 'unknown key "ulr", did you mean "url"?'),
        ("[alpine]\nmirror = 'http://me:se/cret@h/a'\n", "found a URL that is none, wanted"),
        ("[alpine]\nmirror = 'http://me:se@cret@h/a'\n", "found a URL that is none, wanted"),
        ("[alpine]\nrepositories = ['ftp://me:se@h/']\n", "url: found a URL that is none, wanted"),
        ("[alpine]\nmirror = 'http://h/a?token=x'\n", "an http(s) URL, without ? and #; in a pass"),
        ("[alpine]\nrepositories = [3]\n", "repositories: url: found 3, wanted a string"),
        ("[alpine]\navailable = ['a b']\n", '"curl", "curl=8.9.1-r0", "curl~8.9", "curl@tag"'),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^BELAY_ALPINE_KERNEL: kernel: found 'x', wanted"):
        load(tmp_path, "", BELAY_ALPINE_KERNEL="x")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("BELAY_LOGIN_CONSOL", "BELAY_LOGIN_CONSOLE"),
        ("BELAY_ALPINE_KERNAL", "BELAY_ALPINE_KERNEL"),
        ("BELAY_PASSPRASE", "BELAY_PASSPHRASE"),
    ],
)
def test_a_variable_that_is_none_is_refused(tmp_path: Path, name: str, nearest: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, "", **{name: "locked"})
    assert str(caught.value) == f'{name}: there is no such variable; did you mean "{nearest}"?'


def test_a_variable_that_is_like_none_is_refused_without_a_guess(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="BELAY_FOO: there is no such variable; see docs/configuration"
    ):
        load(tmp_path, "", BELAY_FOO="1")


@pytest.mark.parametrize("window", ["22-4", "0-23", "2-22", "1-10"])
def test_windows(tmp_path: Path, window: str) -> None:
    assert load(tmp_path, f"[update]\nwindow = '{window}'\n").update.window == window


def test_variables_that_are_no_settings_are_known(tmp_path: Path) -> None:
    assert load(tmp_path, "", BELAY_CACHE="/c", BELAY_PASSPHRASE="p") == Config()


def test_the_rolling_branch_and_any_repository(tmp_path: Path) -> None:
    text = "[alpine]\nrelease = 'edge'\nrepositories = ['main', 'my-own2.x']\n"
    config = load(tmp_path, text)
    assert config.alpine.branch == "edge"
    assert config.alpine.repositories == ("main", "my-own2.x")


OWN = """[alpine]
repositories = [
  "main", "https://u:p@a.example/x/", {url = "https://b.example/v1", key = "keys/b.pub"}
]
"""
TABLES = """[alpine]
kernel = "virt"
[[alpine.repositories]]
url = "http://c.example/edge/testing"
tag = "testing"
[[alpine.repositories]]
url = "http://d.example/"
"""


def test_repositories_beyond_the_mirror_have_a_url(tmp_path: Path) -> None:
    alpine = load(tmp_path, OWN).alpine
    assert alpine.repositories == ("main",)
    assert alpine.own == (
        OwnRepository("https://u:p@a.example/x"),
        OwnRepository("https://b.example/v1", "keys/b.pub"),
    )
    alpine = load(tmp_path, TABLES).alpine
    assert alpine.repositories == ("main", "community"), "the mirror's needn't be named"
    assert alpine.own == (
        OwnRepository("http://c.example/edge/testing", tag="testing"),
        OwnRepository("http://d.example"),
    )
    alpine = load(tmp_path, "", BELAY_ALPINE_REPOSITORIES="main http://d.example").alpine
    assert (alpine.repositories, alpine.own) == (("main",), (OwnRepository("http://d.example"),))


def test_words_of_the_kernel_may_have_a_number_sign_inside(tmp_path: Path) -> None:
    assert load(tmp_path, "[boot]\ncmdline = 'a=#1 b'\n").boot.cmdline == "a=#1 b"


def test_a_missing_file_says_how_to_get_it_back(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"image\.toml is missing; git checkout"):
        load_config(tmp_path / "image.toml", {})
