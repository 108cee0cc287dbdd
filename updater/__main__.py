"""`belay`: shows what runs on this node, updates it, and says what happened."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from updater import commands
from updater.commands import Answer, Belay, Wish
from updater.contract import EXIT_NOT_YET
from updater.errors import Unreachable, UpdateError, printable
from updater.memory import Memory
from updater.node import find_node

LOG_ERROR, LOG_INFO = 3, 6  # the kernel's levels: a quiet console shows errors
Options = argparse.Namespace


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    options = _parser().parse_args(words)
    try:
        code = _run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(options: Options) -> int:
    try:
        answer: Answer = options.run(options)
    except BrokenPipeError:
        raise
    except (UpdateError, OSError) as error:
        if options.json:
            print(json.dumps({"error": str(error)}))
        else:
            print(f"belay: {error}", file=sys.stderr)
        return EXIT_NOT_YET if isinstance(error, Unreachable) else 1
    if options.json:
        print(json.dumps(answer.values))
    for line in () if options.json else answer.lines:
        print(printable(line))
    return answer.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="belay", description=__doc__)
    parser.add_argument("--root", default="/", help=argparse.SUPPRESS)
    known = parser.add_subparsers(required=True, metavar="COMMAND")

    def without_node(
        name: str, about: str, run: Callable[[Options], Answer]
    ) -> argparse.ArgumentParser:
        subparser = known.add_parser(name, help=about, description=about)
        subparser.add_argument("--json", action="store_true", help="answer in JSON")
        subparser.set_defaults(run=run)
        return subparser

    def command(
        name: str, about: str, run: Callable[[Belay, Options], Answer]
    ) -> argparse.ArgumentParser:
        return without_node(name, about, lambda options: run(_belay(options), options))

    command(
        "status",
        "show what runs, the state of both slots, and why a release was rejected",
        lambda belay, _: commands.status(belay),
    )
    check = command(
        "check",
        "ask whether there is a newer release",
        lambda belay, options: commands.check(belay, options.source),
    )
    update = command(
        "update",
        "write a release to the other slot, to be tried at the next boot",
        lambda belay, options: commands.update(belay, _wish(options)),
    )
    pull = command(
        "pull",
        "update if it is time to, and reboot (a service calls this)",
        lambda belay, options: commands.pull(belay, options.source),
    )
    for subparser in (check, update, pull):
        subparser.add_argument(
            "--from", dest="source", default="", help="take it from a URL, a folder or a tar"
        )
    update.add_argument("--to", default="", metavar="VERSION", help="install this release")
    update.add_argument(
        "--reinstall", action="store_true", help="install the running release again"
    )
    update.add_argument("--reboot", action="store_true", help="reboot into it at once")
    update.add_argument(
        "--again", action="store_true", help="install it even if it was rejected before"
    )
    command("confirm", "declare the running slot good", lambda belay, _: commands.confirm(belay))
    command(
        "rollback",
        "go back to the other slot at the next boot",
        lambda belay, _: commands.rollback(belay),
    )
    command(
        "history",
        "show what happened, the newest last",
        lambda belay, options: (commands.logs if options.log else commands.history)(belay),
    ).add_argument(
        "--log", action="store_true", help="show the logs of the last two unhealthy boots"
    )
    install = without_node(
        "install",
        "write this system, which was booted over the network, to a disk",
        lambda options: commands.install(
            Path(options.root), options.disk, options.again, _tell(options)
        ),
    )
    install.add_argument("disk", help="the disk, such as /dev/sda")
    install.add_argument(
        "again", nargs="?", default="", help="the same disk again, if it holds data"
    )
    command(
        "node",
        "show the node's own files, or write them",
        lambda belay, options: (
            commands.write_own_files(belay, options.write)
            if options.write
            else commands.own_files(belay)
        ),
    ).add_argument(
        "--write", default="", metavar="FILE", help="write this volume; - is standard input"
    )
    without_node(
        "settings",
        "show the settings of this node",
        lambda options: (commands.resolve if options.resolve else commands.settings)(
            Path(options.root)
        ),
    ).add_argument("--resolve", action="store_true", help="write them for the services")
    command(
        "boottime",
        "show where the seconds of this boot went",
        lambda belay, options: commands.boot_time(belay, options.svg),
    ).add_argument("--svg", action="store_true", help="as a picture: bars over time")
    command(
        "site",
        "try the newest configuration of the site, and keep it or go back",
        lambda belay, options: (commands.apply_site if options.boot else commands.update_site)(
            belay
        ),
    ).add_argument("--boot", action="store_true", help="apply the good one (a service calls this)")
    command(
        "gate",
        "judge the health of this boot, and act on it (a service calls this)",
        lambda belay, options: (
            commands.give_up(belay, options.overdue) if options.overdue else commands.judge(belay)
        ),
    ).add_argument("--overdue", default="", help=argparse.SUPPRESS)
    return parser


def _wish(options: Options) -> Wish:
    return Wish(options.source, options.to, options.reinstall, options.again, options.reboot)


def _belay(options: Options) -> Belay:
    """This node, told of as the options say."""
    node = find_node(Path(options.root))
    return Belay(
        node,
        Memory(node),
        tell=_tell(options),
        announce=_say_on_console,
        whisper=lambda text: _log(text, LOG_INFO),
        progress=_progress(options),
        reboot=_reboot,
    )


def _tell(options: Options) -> Callable[[str], None]:
    def tell(text: str) -> None:
        if not options.json:
            print(printable(text), flush=True)

    return tell


def _progress(options: Options) -> Callable[[int, int, int], None]:
    """Shows how far a download is, once a second, where somebody looks at it."""
    start, shown = time.monotonic(), 0.0

    def show(done: int, total: int, fetched: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if options.json or not sys.stdout.isatty() or (now - shown < 1 and done < total):
            return
        shown = now
        rate = fetched / max(now - start, 0.1)
        left = (now - start) / max(done, 1) * (total - done)
        end = "\n" if done == total else ""
        print(f"\r{done * 100 // total:3} %  {rate / 1e6:5.1f} MB/s  {left:4.0f} s left ", end=end)
        sys.stdout.flush()

    return show


def _say_on_console(text: str) -> None:
    """To the kernel's log, and so to the console, too."""
    text = printable(text)
    print(text, flush=True)
    # Where it was read just now, the console needn't show it again.
    _log(text, LOG_INFO if sys.stdout.isatty() else LOG_ERROR)


def _log(text: str, level: int) -> None:
    """To the kernel's log alone, for who looks there."""
    try:
        with Path("/dev/kmsg").open("w") as log:
            for line in text.splitlines():
                print(f"<{level}>belay: {line}", file=log, flush=True)
    except OSError:
        return


def _reboot() -> None:
    import subprocess

    subprocess.run(["reboot"], check=False)


if __name__ == "__main__":
    sys.exit(main())
