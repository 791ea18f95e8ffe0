"""`generate` and `chat`: use a trained model."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from aligngpt.cli.base import Command
from aligngpt.cli.output import logs_to_stderr, print_json, quiet_loading
from aligngpt.cli.params import FILE, POSITIVE, alignment_option, json_option, trained_option
from aligngpt.utils.progress import status

GENERATE_EXAMPLE = """
aligngpt generate --model runs/synthetic/finetune-adaptive --image image.png --prompt "How many shapes are there?"
aligngpt generate --model runs/synthetic/finetune-adaptive --image image.png --prompt "Describe the picture." \\
    --alignment 3
"""
CHAT_EXAMPLE = "aligngpt chat --model runs/synthetic/finetune-adaptive --image image.png"

image_option = click.option(
    "--image", "images", type=FILE, multiple=True, help="Image of the first question; repeatable. [default: none]"
)
length_option = click.option(
    "--max-new-tokens", type=POSITIVE, default=256, help="Maximum length of an answer in tokens."
)
temperature_option = click.option(
    "--temperature", type=click.FloatRange(min=0.0), default=0.0, help="Sampling temperature; 0 means greedy decoding."
)


@click.command(cls=Command, example=GENERATE_EXAMPLE)
@trained_option
@image_option
@click.option(
    "--prompt", required=True, help="Text prompt. Images come first unless it has one <image> for each of them."
)
@alignment_option
@length_option
@temperature_option
@json_option
def generate(
    model: str | Path, images: tuple[Path, ...], prompt: str, alignment: Any, as_json: bool, **sampling: Any
) -> None:
    """Answer one prompt about images."""
    if not prompt.strip():
        raise click.BadParameter("the prompt is empty.", param_hint="'--prompt'")
    _check_alignment(model, alignment)
    started = time.monotonic()
    with logs_to_stderr() if as_json else quiet_loading():
        with status(f"loading {model}"):
            from aligngpt.inference.chat_session import ChatSession

            session = ChatSession(model, images, alignment)
        load_seconds = round(time.monotonic() - started, 3)
        stream = None if as_json else lambda text: click.echo(text, nl=False)
        answer = session.ask(prompt, stream=stream, **sampling)
    if as_json:
        print_json({**asdict(answer), "load_seconds": load_seconds})
    else:
        click.echo()


@click.command(cls=Command, example=CHAT_EXAMPLE)
@trained_option
@image_option
@alignment_option
@length_option
@temperature_option
def chat(**arguments: Any) -> None:
    """Chat with a model about images in the terminal."""
    _check_alignment(arguments["model"], arguments["alignment"])
    with quiet_loading():
        from aligngpt.serving.terminal import chat

        chat(**arguments)


def _check_alignment(model: str | Path, alignment: Any) -> None:
    """Check a setting for the number of levels of a local model, before torch is imported."""
    if alignment is not None and isinstance(model, Path):
        from aligngpt.modeling.hub import read_num_levels
        from aligngpt.modeling.settings import parse_setting

        parse_setting(alignment, read_num_levels(model))
