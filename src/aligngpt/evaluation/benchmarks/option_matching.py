"""Reading the letter of an option in a free-form answer, as MMBench's toolkit does without a language model."""

from __future__ import annotations

import re
from collections.abc import Mapping

ANSWER_WITH_LETTER = "\nAnswer with the option's letter from the given choices directly."
REFUSED = "Z"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_SPACED = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LAST_WORDS = 4
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([A-D])", re.IGNORECASE)
_MAX_LENGTH_RATIO = 2  # of the answer to all options together


def infer_option(text: str, options: Mapping[str, str]) -> str | None:
    """Infer which option an answer means.

    A refusal is `Z`. Otherwise the only option letter that occurs as a word, first among the last four words;
    otherwise the letter after `answer is`; otherwise the only option whose text occurs in an answer that is at most
    twice as long as all options.

    Args:
        text: The answer.
        options: Letter to text of each option, without missing options.

    Returns:
        A letter of `options`, `Z`, or None if nothing can be inferred.
    """
    if any(refusal in text for refusal in _REFUSALS):
        return REFUSED
    words = text.translate(_SPACED).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) >= len(words) - _LAST_WORDS:
        return letters[0]
    if not letters and REFUSED in words:
        return REFUSED
    match = _ANSWER_IS.search(text)
    if match and match[1].upper() in options:
        return match[1].upper()
    is_short = len(text.lower()) <= _MAX_LENGTH_RATIO * sum(map(len, options.values()))
    letters = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return letters[0] if is_short and len(letters) == 1 else None
