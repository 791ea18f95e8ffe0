"""Text from data, file names and errors, made safe to print."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Control characters, line and direction separators, and unpaired surrogates.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return the text with unprintable characters escaped, as in `\\x1b`."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(error: Exception | str) -> str:
    """Return a text, or the message of an error or else its type, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def format_p_value(probability: float) -> str:
    """Return `0.031`, or `< 0.001`, which rounding would turn into zero."""
    return "< 0.001" if probability < 0.001 else f"{probability:.3f}"


def suggest(name: str, choices: Iterable[str]) -> str:
    """Return `; did you mean NAME?` for the most similar choice, or nothing."""
    matches = difflib.get_close_matches(name, list(choices), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
