"""Names of models: folders, bundled models and hub names, without importing a library."""

from __future__ import annotations

import re
from pathlib import Path

from aligngpt.utils.text import suggest

BUNDLED_WEIGHTS = Path(__file__).parents[1] / "synthetic" / "weights"
BUNDLED_MODELS = {"synthetic-clip": BUNDLED_WEIGHTS / "clip", "synthetic-llm": BUNDLED_WEIGHTS / "llm"}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # in order of preference; or shards with `.index.json`
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


def find_model(name: str | Path) -> Path | None:
    """Return the folder of a model, or `None` if `name` is a hub name, `org/name[@revision]`.

    Args:
        name: An existing folder, a bundled model (`synthetic-clip`, `synthetic-llm`) or a hub name.

    Raises:
        FileNotFoundError: It is none of these. A name whose parent folder exists is a path, never a hub name.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    text = str(name)
    if text in BUNDLED_MODELS:
        if BUNDLED_MODELS[text].is_dir():
            return BUNDLED_MODELS[text]
        raise FileNotFoundError(f"{text}: {BUNDLED_MODELS[text]} is missing; run `aligngpt synthetic backbones`")
    if _HUB_NAME.fullmatch(text) and not path.parent.is_dir():
        return None
    hint = suggest(text, BUNDLED_MODELS) or (
        f"; pass a folder, a bundled model ({', '.join(BUNDLED_MODELS)}) or a hub name (org/name)"
    )
    raise FileNotFoundError(f"{text}: no such model folder{hint}")


def has_weights(folder: Path) -> bool:
    """Whether a folder has the weights of a checkpoint, in one file or with an index."""
    return any((folder / f"{name}{suffix}").is_file() for name in WEIGHT_FILES for suffix in ("", ".index.json"))


def name_model(folder: Path) -> str:
    """Return the name of a model folder, for a bundled model and a folder of the hub's cache that of the model."""
    folder = folder.resolve()
    for name, bundled in BUNDLED_MODELS.items():
        if folder == bundled.resolve():
            return name
    repository = folder.parents[1].name if folder.parent.name == "snapshots" else ""
    return repository.split("--")[-1] if repository.startswith("models--") else folder.name
