"""What every command shares: one-line errors, exit codes, `--debug`, and help that shows an example."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from aligngpt.utils.text import printable

_FROM_WORKER = re.compile(r"Caught (\w+) in .*\nOriginal Traceback .*\n(?:[\w.]+\.)?\1: (.+)", re.DOTALL)

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_BAD_DATA, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


@dataclass
class Settings:
    """What the options of the program as a whole say."""

    debug: bool = False


def _switch_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Settings).debug = True


def _debug_option() -> click.Option:
    return click.Option(
        ["--debug"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_switch_debug,
        help="Show the traceback of an error.",
    )


class Command(click.Command):
    """A command whose help ends with an example that can be run, and that takes `--debug`.

    Args:
        example: One or more lines as they are typed, without a prompt sign.
    """

    def __init__(self, name: str | None, *, example: str, **attributes: Any) -> None:
        lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
        super().__init__(name, epilog=f"\b\nExample:\n{lines}", **attributes)
        self.params.append(_debug_option())


class Group(click.Group):
    """Commands that belong together."""

    command_class = Command
    group_class: type[click.Group] | type[type] | None = type

    def __init__(self, name: str | None = None, **attributes: Any) -> None:
        super().__init__(name, **attributes)
        self.params.append(_debug_option())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order they are used, not by the alphabet."""
        return list(self.commands)


class Program(Group):
    """The whole command line: runs a command and turns whatever it raises into one line and an exit code."""

    group_class = Group

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run as `click.Command.main` does, with this program's errors and exit codes."""
        settings = extra.setdefault("obj", Settings())
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(EXIT_USAGE)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted; a command that writes files goes on where it was when run again", EXIT_INTERRUPTED)
        except Exception as error:
            if settings.debug and not isinstance(error, click.UsageError):
                traceback.print_exception(error)
            _fail(*explain(error))
        sys.exit(code if isinstance(code, int) else EXIT_OK)


def explain(error: Exception) -> tuple[str, int]:
    """Say in one line what went wrong, and which exit code it has.

    Args:
        error: What a command raised.

    Returns:
        The line, without the program's name, and the exit code.
    """
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "aligngpt"
        message = _one_line(error.format_message()).removesuffix(".")
        return f"{message}{' See' if message.endswith('?') else '; see'} {command} --help", EXIT_USAGE
    if isinstance(error, click.ClickException):
        return _one_line(error.format_message()), EXIT_FAILED
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        return _one_line(f"{place}{error.strerror}"), EXIT_FAILED
    message = _one_line(_of_worker(str(error))) or type(error).__name__
    if isinstance(error, ValueError):
        from aligngpt.data.schema import StrictDataError

        return message, EXIT_BAD_DATA if isinstance(error, StrictDataError) else EXIT_FAILED
    if isinstance(error, OSError | ImportError):
        return message, EXIT_FAILED
    return f"{type(error).__name__}: {message} (not foreseen; --debug shows where)", EXIT_FAILED


def _of_worker(text: str) -> str:
    """Take the message out of what a DataLoader's worker process sends; other text stays as it is."""
    found = _FROM_WORKER.match(text)
    return found[2] if found else text


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _close_bars() -> None:
    """End the lines of progress bars that an error left open."""
    if "tqdm" in sys.modules:
        for bar in list(sys.modules["tqdm"].tqdm._instances):
            bar.close()


def _fail(message: str, code: int) -> NoReturn:
    _close_bars()
    click.echo(f"aligngpt: error: {message}", err=True)
    sys.exit(code)
