"""`convert`: official checkpoints to model folders, and back."""

from __future__ import annotations

from pathlib import Path

import click

from aligngpt.cli.base import Command
from aligngpt.cli.output import print_json, print_table, print_warnings, quiet_loading
from aligngpt.cli.params import FOLDER, NEW_FOLDER, json_option

CONVERT_EXAMPLE = """
aligngpt convert AlignGPT-7B model --vision-tower clip-vit-large-patch14-336
aligngpt convert mm_projector_align.bin model --vision-tower clip-vit-large-patch14-336 --base-llm vicuna-7b-v1.5
aligngpt convert model AlignGPT-7B-again --to official
"""


@click.command(cls=Command, example=CONVERT_EXAMPLE)
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("output", type=NEW_FOLDER)
@click.option(
    "--vision-tower",
    type=click.Path(path_type=Path),
    help="Folder of the vision tower. [default: the one config.json names]",
)
@click.option("--base-llm", type=FOLDER, help="Folder of the language model below a stage-1 file. [default: none]")
@click.option("--template", help="Chat template, a shipped name or a Jinja file. [default: by the language model]")
@click.option("--to", "target", type=click.Choice(["aligngpt", "official"]), default="aligngpt", help="What to write.")
@json_option
def convert(
    source: Path,
    output: Path,
    vision_tower: Path | None,
    base_llm: Path | None,
    template: str | None,
    target: str,
    as_json: bool,
) -> None:
    """Convert a checkpoint of the official AlignGPT code.

    SOURCE is a complete official checkpoint, or the mm_projector_align.bin of its stage 1 with --base-llm; OUTPUT
    becomes a model folder. With --to official it goes the other way. Nothing is written unless every tensor fits.
    """
    if target == "official" and template is not None:
        raise click.BadParameter("the official code has its own templates.", param_hint="'--template'")
    with quiet_loading():
        if target == "official":
            from aligngpt.modeling.conversion.to_official import export_official

            report = export_official(source, output, vision_tower=vision_tower, base_llm=base_llm)
        else:
            from aligngpt.modeling.conversion.from_official import convert_official

            report = convert_official(source, output, vision_tower=vision_tower, base_llm=base_llm, template=template)
    print_warnings(report["warnings"])
    if as_json:
        print_json(report)
        return
    shown = {name: value for name, value in report.items() if name not in ("inputs", "warnings", "versions")}
    print_table(f"Converted to {output}", ("", ""), list(shown.items()))
