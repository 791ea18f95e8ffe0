"""What every command shares: one-line errors, exit codes, `--debug`, and help that ends with an example."""

from __future__ import annotations

import re
import sys
import traceback
from typing import Any, NoReturn

import click

from aligngpt.utils.errors import ArgumentError
from aligngpt.utils.processes import interrupt_on_sigterm
from aligngpt.utils.text import one_line, printable

# The message of an error that a DataLoader's worker process raised.
_WORKER_ERROR = re.compile(r"Caught (\w+) in .*\nOriginal Traceback .*\n(?:[\w.]+\.)?\1: (.+)", re.DOTALL)

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_BAD_DATA, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(dict)["debug"] = True


_DEBUG_OPTION = click.Option(
    ["--debug"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_set_debug,
    help="Show the traceback of an error.",
)


class Command(click.Command):
    """A command with `--debug`, whose help ends with an example that can be run.

    Args:
        example: One or more lines as they are typed, without a prompt.
    """

    def __init__(self, name: str | None, *, example: str, **attributes: Any) -> None:
        lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
        super().__init__(name, epilog=f"\b\nExample:\n{lines}", **attributes)
        self.params.append(_DEBUG_OPTION)


class Group(click.Group):
    """A group of commands, listed in the order in which they were added."""

    command_class = Command
    group_class: type[click.Group] | type[type] | None = type

    def __init__(self, name: str | None = None, **attributes: Any) -> None:
        super().__init__(name, **attributes)
        self.params.append(_DEBUG_OPTION)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order of use instead of the alphabet."""
        return list(self.commands)


class Program(Group):
    """The command line: runs a command and turns an exception into one line and an exit code."""

    group_class = Group

    def main(self, *arguments: Any, **options: Any) -> NoReturn:
        """Run as `click.Command.main` does, with the errors and exit codes of this program; SIGTERM acts as Ctrl-C."""
        settings = {"debug": False}
        options |= {"obj": settings, "standalone_mode": False}
        try:
            with interrupt_on_sigterm():
                code = super().main(*arguments, **options)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(EXIT_USAGE)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted; run the same command again to resume", EXIT_INTERRUPTED)
        except Exception as error:
            if settings["debug"] and not isinstance(error, click.UsageError):
                traceback.print_exception(error)
            _fail(*explain_error(error))
        sys.exit(code if isinstance(code, int) else EXIT_OK)


def explain_error(error: Exception) -> tuple[str, int]:
    """Return the description of an exception in one line, without the program's name, and its exit code."""
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "aligngpt"
        message = one_line(error.format_message()).removesuffix(".")
        return f"{message}{' See' if message.endswith('?') else '; see'} {command} --help", EXIT_USAGE
    if isinstance(error, click.ClickException):
        return one_line(error.format_message()), EXIT_FAILED
    code = EXIT_USAGE if isinstance(error, FileNotFoundError) else EXIT_FAILED
    if isinstance(error, OSError) and error.strerror:
        path = f"{error.filename}: " if error.filename is not None else ""
        return one_line(f"{path}{error.strerror}"), code
    worker_error = _WORKER_ERROR.match(str(error))
    message = one_line(worker_error[2] if worker_error else error)
    if isinstance(error, ValueError):
        from pydantic import ValidationError

        from aligngpt.data.schema import StrictDataError
        from aligngpt.utils.config import describe_error

        if isinstance(error, ValidationError):
            message = one_line(describe_error(error))
        if isinstance(error, ArgumentError):
            return message, EXIT_USAGE
        return message, EXIT_BAD_DATA if isinstance(error, StrictDataError) else EXIT_FAILED
    if isinstance(error, OSError | ImportError):
        return message, code
    return f"{type(error).__name__}: {message} (unexpected error; rerun with --debug for a traceback)", EXIT_FAILED


def _fail(message: str, code: int) -> NoReturn:
    if "tqdm" in sys.modules:  # end the line of a progress bar that the error left open
        for bar in list(sys.modules["tqdm"].tqdm._instances):
            bar.close()
    click.echo(f"aligngpt: error: {printable(message)}", err=True)
    sys.exit(code)
