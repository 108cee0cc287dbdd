"""The command `inv`: invoke, with help in groups, and a sentence for each mistake."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import NoReturn

import tomli
from invoke.collection import Collection
from invoke.exceptions import Exit, ParseError
from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext
from invoke.program import Program

from builder.core.errors import UserError, explained
from builder.core.output import show_json
from builder.core.paths import PROJECT

BROKEN_PIPE = 141  # the exit code of a shell's program whose reader went away: 128 + SIGPIPE
INTERRUPTED = 130
HELP = """\
Belay builds Alpine Linux systems that update themselves safely.

    ./inv image                 make build/disk.img, and first all that it needs
    ./inv qemu                  boot it in a virtual machine
"""
WHERE_NEXT = """\
./inv TASK --help      the options of a task
./inv --dry TASK       what it would do
./inv --debug TASK     where an error comes from, if its message isn't enough
README.md              what Belay is, and how to begin
"""


class Inv(Program):
    """The tasks of `namespace`, listed in `groups` by the names that a user types."""

    def __init__(
        self,
        namespace: Collection,
        groups: Mapping[str, Sequence[str]],
        dry: Container[str] = frozenset(),
    ) -> None:
        super().__init__(name="Belay", binary="./inv", binary_names=["inv"], namespace=namespace)
        self.groups = groups
        self.dry = dry  # the tasks that heed --dry, or change nothing

    def run(self, argv: list[str] | None = None, exit: bool = True) -> None:
        """Run the tasks that the command line names. What a user can put right has no traceback."""
        self.json = "--json" in (argv or sys.argv)
        for name in ("stdout", "stderr"):  # a program may be started without them
            if getattr(sys, name) is None:
                setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        try:
            super().run(argv, exit)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever reads has seen enough, as in `./inv --list | head`
            self._give_up_stdout(BROKEN_PIPE)
        except OSError as error:  # the output itself can't be written
            print(f"the output can't be written: {error.strerror}", file=sys.stderr)
            self._give_up_stdout(1)

    @staticmethod
    def _give_up_stdout(code: int) -> NoReturn:
        """End without another try to write what is left for the output."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(code)

    def parse_tasks(self) -> None:
        """Parse the command line."""
        with self._errors_as_json():
            self._parse_words()

    def execute(self) -> None:
        """Run the tasks."""
        with self._errors_as_json():
            self._run_tasks()

    @contextmanager
    def _errors_as_json(self) -> Iterator[None]:
        """For programs, an error is a result too; a task that fails without a word gave its own."""
        try:
            yield
        except Exit as error:
            if self.json and error.message:
                found, hint = str(error.message), ""
                if isinstance(error, UserError):
                    found, hint = error.found, error.hint
                show_json({"error": found, "hint": hint})
            raise

    def _run_tasks(self) -> None:
        if self.args.dry.value:
            for task in self.tasks:
                if (name := _typed(task)) not in self.dry:
                    raise UserError(f"./inv {name} knows no --dry", "nothing was done")
        try:
            super().execute()
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            raise Exit("interrupted", INTERRUPTED) from None
        except EOFError:
            raise UserError(
                "the input ended where an answer was wanted", "nothing was done"
            ) from None
        except OSError as error:
            if self.args.debug.value:
                raise
            raise explained(error) from None

    def _parse_words(self) -> None:
        words = self.core.unparsed
        if words[:1] == ["help"]:
            words = [*words[1:], "--help"] if words[1:] else []
        self._check_name(words)
        self._check_options(words)
        if isinstance(asked := self.args.help.value, str):
            self._check_name([asked])
        asks = any(word in ("--help", "-h") for word in words)  # even where a value is expected
        self.core.unparsed = [] if asks else words
        try:
            super().parse_tasks()
        except ParseError as error:
            raise UserError(self._sentence(error)) from None
        if asks:
            self.args.help.set_value(words[0], cast=False)

    def _check_name(self, words: Sequence[str]) -> None:
        """Raise UserError where the first word is no task: with it all others make no sense."""
        if words and not words[0].startswith("-") and words[0] not in self.collection:
            nearest = _nearest(words[0], self._task_names())
            raise UserError(f'there is no task "{words[0]}"', f"{nearest}./inv lists them all")

    def _check_options(self, words: Sequence[str]) -> None:
        """Raise UserError where an option is none of the tasks that are named.

        Where a value is expected, invoke takes whatever comes: it would blame the next word.
        """
        # A copy: invoke takes the help out of tasks as it reads them.
        contexts = {
            name: context
            for context in deepcopy(self.collection).to_contexts()
            for name in (str(context.name), *context.aliases)
        }
        named = [contexts[word] for word in words if word in contexts]
        known: dict[str, Argument] = {}
        for context in named:
            known |= context.flags
            known |= dict.fromkeys(context.inverse_flags, Argument("inverse", kind=bool))
        known |= self.initial_context.flags
        is_value = False
        for word in words:
            flag, equals, _ = word.partition("=")
            if word.startswith("--") and not is_value and flag not in known and named:
                task = _typed(named[0])
                raise UserError(
                    f'./inv {task} doesn\'t know "{flag}"',
                    f"{_nearest(flag, named[0].flags)}see: ./inv {task} --help",
                )
            argument = known.get(flag) if not is_value else None
            is_value = bool(argument and argument.takes_value and not equals)

    def _task_names(self) -> list[str]:
        names = self.collection.task_names
        return [*names, *(name for others in names.values() for name in others)]

    def _sentence(self, error: ParseError) -> str:
        """What invoke found wrong, and what is wanted."""
        context, text = error.context, str(error)
        if context is None or context.name is None:
            return f"{text} ./inv lists all tasks"
        task = _typed(context)
        if missing := context.missing_positional_args:
            wanted = "; and ".join(f"--{arg.names[0]}: {arg.help}" for arg in missing)
            return f"./inv {task} wants {wanted}"
        if "No idea what" in text:
            word = text.split("'")[1]
            nearest = _nearest(word, [*context.flags, *self._task_names()])
            return f'./inv {task} doesn\'t know "{word}"; {nearest}see: ./inv {task} --help'
        if option := re.search(r"<Argument: (\S+).*needed value", text):
            return f"--{option[1]}: a value is missing; see: ./inv {task} --help"
        return f"./inv {task}: {text}; see: ./inv {task} --help"

    # --- help ---

    def print_version(self) -> None:
        """Show the version of Belay."""
        project = tomli.loads((PROJECT / "pyproject.toml").read_text())["project"]
        print(f"Belay {project['version']}")

    def print_help(self) -> None:
        """Show all tasks, in their groups, and where more help is."""
        print(HELP)
        about = {
            short: (inspect.getdoc(self.collection[name]) or "").split("\n", maxsplit=1)[0]
            for name, others in self.collection.task_names.items()
            for short in (name, *others)
        }
        for title, names in self.groups.items():
            print(title)
            for name in names:
                print(f"  {name:16} {about[name]}")
            print()
        print(WHERE_NEXT, end="")

    def list_flat(self) -> None:
        """See print_help: there is one list."""
        self.print_help()

    def print_task_help(self, name: str) -> None:
        """Show what a task does, and its options."""
        context = self.parser.contexts[name]
        task = _typed(context)
        wanted = [f"--{arg.names[0]} ..." for arg in context.positional_args]
        print(" ".join(["./inv", task, *wanted, "[--options]"]) + "\n")
        print(f"{inspect.getdoc(self.collection[name])}\n")
        if options := context.help_tuples():
            self.print_columns(options)


def _typed(context: ParserContext) -> str:
    """The name of a task as a user types it: of `release.make (release)` the short one."""
    return min([str(context.name), *context.aliases], key=len)


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f'did you mean "{near[0]}"? ' if near else ""
