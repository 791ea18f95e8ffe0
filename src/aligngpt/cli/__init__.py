"""The command line; each command parses its options, calls the package and prints the result.

Commands import what they call in their body, so that help and usage errors answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from aligngpt import __version__
from aligngpt.cli.base import Program
from aligngpt.cli.conversion import convert
from aligngpt.cli.curation import filter_, level, score
from aligngpt.cli.evaluation import eval_group
from aligngpt.cli.inference import chat, generate
from aligngpt.cli.report import report
from aligngpt.cli.synthetic import run, synthetic
from aligngpt.cli.training import finetune, pretrain

_EPILOG = """\b
Exit codes:
  0    success
  1    failure: data, model or machine
  2    wrong usage: an option, a value, or a path that does not exist
  3    bad records in the data, with --strict
  130  interrupted by Ctrl-C or SIGTERM; the same command resumes

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
    """Score image-text pairs, train multimodal models on data of uneven quality, evaluate and use them."""


for _command in (
    run,
    score,
    level,
    filter_,
    pretrain,
    finetune,
    convert,
    generate,
    chat,
    eval_group,
    report,
    synthetic,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: Arguments after the program name; those of the process by default.
    """
    cli.main(args=arguments, prog_name="aligngpt")
