"""`generate` and `chat`: ask a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aligngpt.cli.base import Command
from aligngpt.cli.output import print_json, quiet_loading, results_alone
from aligngpt.cli.params import FILE, TRAINED, alignment_option, json_option

GENERATE_EXAMPLE = """
aligngpt generate --model runs/scenes/finetune-adaptive --image image.png --prompt "How many shapes are there?"
aligngpt generate --model runs/scenes/finetune-adaptive --image image.png --prompt "Describe the picture." \\
    --alignment 3
"""
CHAT_EXAMPLE = """
aligngpt chat --model runs/scenes/finetune-adaptive --image image.png
"""

model_option = click.option(
    "--model", type=TRAINED, required=True, help="Folder of a trained model or of a stage-1 checkpoint."
)
length_option = click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=256, help="Longest answer, in tokens."
)
temperature_option = click.option(
    "--temperature",
    type=click.FloatRange(min=0.0),
    default=0.0,
    help="How freely words are drawn; 0 takes the likeliest.",
)


@click.command(cls=Command, example=GENERATE_EXAMPLE)
@model_option
@click.option("--image", "images", type=FILE, multiple=True, help="An image; give it again for more. [default: none]")
@click.option("--prompt", required=True, help="What to ask; images stand in front, or at one <image> for each.")
@alignment_option
@length_option
@temperature_option
@json_option
def generate(
    model: Path,
    images: tuple[Path, ...],
    prompt: str,
    alignment: str | int | tuple[float, ...] | None,
    max_new_tokens: int,
    temperature: float,
    as_json: bool,
) -> None:
    """Answer a prompt about images."""
    if not prompt.strip():
        raise click.BadParameter("the prompt is empty.", param_hint="'--prompt'")
    options: dict[str, Any] = {
        "alignment": alignment,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
    }
    with quiet_loading():
        from aligngpt.inference import chat_session as session

        if as_json:
            with results_alone():
                result = session.generate(model, list(images), prompt, stream=None, **options)
            print_json(result)
        else:
            session.generate(model, list(images), prompt, stream=lambda text: click.echo(text, nl=False), **options)
            click.echo()


@click.command(cls=Command, example=CHAT_EXAMPLE)
@model_option
@click.option("--image", type=FILE, help="The image to talk about; /image shows more. [default: none]")
@alignment_option
@length_option
@temperature_option
def chat(
    model: Path,
    image: Path | None,
    alignment: str | int | tuple[float, ...] | None,
    max_new_tokens: int,
    temperature: float,
) -> None:
    """Talk with a model about an image, at the terminal."""
    with quiet_loading():
        from aligngpt.serving import terminal

        terminal.chat(model, image, alignment, max_new_tokens, temperature)
