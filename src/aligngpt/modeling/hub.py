"""Find models by name, in local folders, among the bundled models or on the Hugging Face Hub, and check their type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aligngpt.modeling.artifacts import Stage1Checkpoint
from aligngpt.utils.io import read_json
from aligngpt.utils.models import find_model, has_weights
from aligngpt.utils.progress import status
from aligngpt.utils.text import one_line

_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
_WEIGHTS = ("*.safetensors", "*.bin")  # in order of preference


def resolve_model(name: str | Path) -> Path:
    """Return the folder of a model and download it from the hub where needed.

    Args:
        name: A folder, a bundled model (`synthetic-clip`, `synthetic-llm`) or a hub name, `org/name[@revision]`.

    Raises:
        FileNotFoundError: The model does not exist, or the hub cannot be reached and the cache does not have it.
    """
    folder = find_model(name)
    return folder if folder is not None else _download(str(name))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    try:
        with status(f"downloading {name} from the Hugging Face Hub"):
            for weights in _WEIGHTS:
                patterns = [*_SMALL_FILES, weights]
                folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
                if has_weights(folder):
                    break
    except RevisionNotFoundError:
        raise FileNotFoundError(f"{name}: the Hugging Face Hub has no revision {revision} of {repository}") from None
    except GatedRepoError:
        raise FileNotFoundError(f"{name}: access is restricted; request access and run `hf auth login`") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise FileNotFoundError(f"{name}: no such folder, and no such model on the Hugging Face Hub") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise FileNotFoundError(
            f"{name}: not in the local cache, and the Hugging Face Hub cannot be reached; pass a folder or go online"
        ) from None
    except OSError as error:  # the hub's own errors and those of the network
        raise FileNotFoundError(f"{name}: cannot be downloaded from the Hugging Face Hub: {one_line(error)}") from error
    return folder


def read_num_levels(model: str | Path) -> int | None:
    """Read N of a model or a stage-1 checkpoint, `None` if it has no such setting; errors as `resolve_model`."""
    folder = resolve_model(model)
    file = folder / Stage1Checkpoint.FILE
    values = read_json(file)["settings"] if file.is_file() else read_json(folder / "config.json")
    return values.get("num_alignment_levels")


def read_vision_config(vision_tower: str | Path) -> Any:
    """Return the configuration of the vision part of a checkpoint, a complete CLIP or its tower alone.

    Raises:
        FileNotFoundError: The checkpoint does not exist.
        ValueError: The checkpoint has no vision tower.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(resolve_model(vision_tower))
    vision = getattr(config, "vision_config", config)
    kind = "complete AlignGPT" if config.model_type == "aligngpt" else config.model_type
    if kind != config.model_type or not hasattr(vision, "patch_size") or not hasattr(vision, "image_size"):
        raise ValueError(f"{vision_tower} is a {kind} model; pass a CLIP or SigLIP model")
    return vision


def check_language_model(language_model: str | Path) -> None:
    """Check that a checkpoint is a causal language model.

    Raises:
        FileNotFoundError: The checkpoint does not exist.
        ValueError: The checkpoint is of another kind.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = AutoConfig.from_pretrained(resolve_model(language_model))
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{language_model} is a {config.model_type} model; pass a causal language model")
