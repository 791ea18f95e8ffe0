"""Model names to folders: local folders, bundled models and models of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

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
