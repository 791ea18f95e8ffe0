"""Reading an option's letter out of an answer in free form, as MMBench's toolkit does without a language model."""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
REFUSED = "Z"
_SPACED = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_NEAR_THE_END = 4  # words
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([A-D])", re.IGNORECASE)
_LONGEST = 2  # times the length of all options together


def infer_option(text: str, options: Mapping[str, str]) -> str | None:
    """Infer which option an answer means.

    A refusal is `Z`. Else the one option letter that stands as a word of its own, first among the last four words;
    else the letter after `answer is`; else the one option whose text is contained, in an answer not much longer than
    all options.

    Args:
        text: The answer.
        options: The text of each option by its letter, absent options left out.

    Returns:
        A letter of `options`, `Z`, or None if nothing can be inferred.
    """
    if any(refusal in text for refusal in _REFUSALS):
        return REFUSED
    words = text.translate(_SPACED).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - _NEAR_THE_END:
        return named[0]
    if not named and REFUSED in words:
        return REFUSED
    said = _ANSWER_IS.search(text)
    if said and said[1].upper() in options:
        return said[1].upper()
    return _contained(text.lower(), options)


def _contained(text: str, options: Mapping[str, str]) -> str | None:
    if len(text) > _LONGEST * sum(map(len, options.values())):
        return None
    found = [letter for letter, option in options.items() if option.lower() in text]
    return found[0] if len(found) == 1 else None
