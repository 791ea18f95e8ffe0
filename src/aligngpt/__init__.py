"""AlignGPT: multimodal language models trained on image-text data of uneven quality.

The public names are loaded when they are first asked for, so that `import aligngpt` alone touches no device, no network
and none of the heavy libraries.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aligngpt.modeling import AlignGPTConfig, AlignGPTForConditionalGeneration, AlignGPTProcessor

__version__ = "0.1.0"

__all__ = ["AlignGPTConfig", "AlignGPTForConditionalGeneration", "AlignGPTProcessor", "__version__"]


def __getattr__(name: str) -> Any:
    """Load a public name from `aligngpt.modeling` at its first use.

    Raises:
        AttributeError: If `name` is not one of the public names.
    """
    if name not in __all__:
        raise AttributeError(f"module 'aligngpt' has no attribute {name!r}; it has {', '.join(__all__)}")
    from aligngpt import modeling

    value = globals()[name] = getattr(modeling, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
