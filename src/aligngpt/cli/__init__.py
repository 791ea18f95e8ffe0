"""The command line: one verb per command, each of which parses, calls and prints.

What a command calls is imported inside it, so that help and usage errors answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from aligngpt import __version__
from aligngpt.cli.base import Program
from aligngpt.cli.conversion import convert
from aligngpt.cli.curation import level, score
from aligngpt.cli.evaluation import evaluate
from aligngpt.cli.evaluation_run import run as run_benchmarks
from aligngpt.cli.filtering import select
from aligngpt.cli.inference import chat, generate
from aligngpt.cli.judge import judge
from aligngpt.cli.report import report
from aligngpt.cli.synthetic import run, synthetic
from aligngpt.cli.training import finetune, pretrain

_EPILOG = """\b
Exit codes:
  0    done
  1    failed: the data, the model or the machine
  2    wrong usage: an option, a value or a path
  3    bad records in the data, with --strict
  130  interrupted; the same command run again goes on

\b
Example:
  aligngpt run synthetic --output runs/synthetic
"""


@click.group(
    cls=Program,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120},
)
@click.version_option(__version__, prog_name="aligngpt", help="Show the version.")
def cli() -> None:
    """Grade image-text pairs, train a model on the grades, measure it and talk to it."""


for _command in (run, score, level, select, pretrain, finetune, convert, generate, chat, evaluate, report, synthetic):
    cli.add_command(_command)
evaluate.add_command(run_benchmarks)
evaluate.add_command(judge)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: What follows the program's name; by default what the process was started with.
    """
    cli.main(args=arguments, prog_name="aligngpt")
