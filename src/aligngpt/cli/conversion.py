"""`convert`: official checkpoints to model folders, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aligngpt.cli.base import Command
from aligngpt.cli.output import print_json, print_next_step, print_table, print_warnings, quiet_loading
from aligngpt.cli.params import MODEL, NEW_FOLDER, OR_HUB_NAME, json_option
from aligngpt.utils.progress import status

CONVERT_EXAMPLE = """
aligngpt convert AlignGPT-7B --output model --vision-tower openai/clip-vit-large-patch14-336
aligngpt convert mm_projector_align.bin --output model --vision-tower openai/clip-vit-large-patch14-336 \\
    --language-model lmsys/vicuna-7b-v1.5
aligngpt convert model --output AlignGPT-7B-again --to official
"""


@click.command(cls=Command, example=CONVERT_EXAMPLE)
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--output", type=NEW_FOLDER, required=True, help="Folder of the converted checkpoint.")
@click.option("--to", "target", type=click.Choice(["aligngpt", "official"]), default="aligngpt", help="Target format.")
@click.option(
    "--vision-tower", metavar="MODEL", help=f"Vision tower: a folder {OR_HUB_NAME}. [default: the path in config.json]"
)
@click.option("--language-model", type=MODEL, help="Language model of a stage-1 file. [default: none]")
@click.option(
    "--template",
    metavar="NAME|FILE",
    help="Chat template: a bundled name or a Jinja file. [default: by the language model]",
)
@json_option
def convert(source: Path, output: Path, target: str, template: str | None, as_json: bool, **backbones: Any) -> None:
    """Convert checkpoints from and to the official code.

    SOURCE is a complete official checkpoint or the mm_projector_align.bin of stage 1. Nothing is written unless every
    tensor has the expected name and shape.
    """
    if target == "official" and template is not None:
        raise click.BadParameter("the official code has its own templates.", param_hint="'--template'")
    with quiet_loading(), status(f"converting {source}"):
        if target == "official":
            from aligngpt.modeling.conversion.to_official import export_official

            report = export_official(source, output, **backbones)
        else:
            from aligngpt.modeling.conversion.from_official import convert_official

            report = convert_official(source, output, template=template, **backbones)
    print_warnings(report.warnings)
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    shown = report.model_dump(exclude={"schema_version", "inputs", "warnings", "versions"})
    print_table(f"Converted to {output}", ("Property", "Value"), shown.items())
    if target == "aligngpt":
        print_next_step("generate", "--model", output, "--image", "IMAGE", "--prompt", "What is in the image?")
