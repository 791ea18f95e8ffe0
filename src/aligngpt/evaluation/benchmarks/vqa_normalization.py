"""VQA accuracy: a short answer compared with those of ten people, and the normalization of such answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # the official code passes a flag as this argument
_COMMA_IN_NUMBER = re.compile(r"\d,\d")

_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_DIGITS)}
_ARTICLES = frozenset({"a", "an", "the"})

_SPELLED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_TYPEWRITTEN = {"ain't", "aren't", "can't", "could've", "couldn't", "we've", "where's", "who've"}


def _contractions(typographic: bool) -> dict[str, str]:
    """Return each contraction by its spellings that lack one apostrophe.

    The `typographic` ones are VizWiz's, which gives most of them the apostrophe U+2019.
    """
    table = {"somebody'd": "somebodyd"}  # reversed in the official tables, too
    for word in _SPELLED.split():
        spelled = word.replace("'", "\u2019") if typographic and word not in _TYPEWRITTEN else word
        for index, letter in enumerate(word):
            if letter == "'":
                table[word[:index] + word[index + 1 :]] = spelled
    if typographic:
        table |= {key.replace("'", "\u2019"): spelled for key, spelled in table.items()}
    return table


CONTRACTIONS = _contractions(typographic=False)
VIZWIZ_CONTRACTIONS = _contractions(typographic=True)


def join_lines(text: str) -> str:
    """Replace newlines and tabs by spaces and strip the text, the first step of the official scorers."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def strip_punctuation(text: str) -> str:
    """Remove punctuation as the official scorers do.

    A punctuation mark is deleted everywhere if it touches a space anywhere, or if the text has a number such as 1,000;
    otherwise it becomes a space. Periods are deleted unless a digit follows, the first 32 of them.
    """
    has_number = _COMMA_IN_NUMBER.search(text) is not None
    stripped = text
    for mark in _PUNCTUATION:
        if mark in text:
            delete = has_number or f"{mark} " in text or f" {mark}" in text
            stripped = stripped.replace(mark, "" if delete else " ")
    return _PERIOD.sub("", stripped, count=_MAX_PERIODS)


def normalize_words(text: str, contractions: Mapping[str, str] = CONTRACTIONS) -> str:
    """Lower the case, write numbers up to ten as digits, drop articles, and restore apostrophes of contractions."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=1 << 16)
def process(text: str) -> str:
    """Normalize a text on one line as VQAv2's scorer does on both sides."""
    return normalize_words(strip_punctuation(text))


@lru_cache(maxsize=1 << 16)
def normalize(text: str) -> str:
    """Normalize a prediction as LLaVA does before an upload to VQAv2 or VizWiz, and TextVQA does on both sides."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return process(join_lines(text))


def most_common(answers: Sequence[str]) -> str:
    """Return the most frequent answer, the first of several."""
    return Counter(answers).most_common(1)[0][0]


def consensus(agreeing: int, people: int) -> float:
    """Return the VQA accuracy of an answer, from the number of people who gave it.

    The mean over people of min(1, n / 3), where n is the number of the other people who gave the answer. For ten
    people, 1, 2, 3 and 4 or more give 0.3, 0.6, 0.9 and 1.

    Args:
        agreeing: 0 to `people`.
        people: At least 1.
    """
    same, different = min(1.0, max(0, agreeing - 1) / 3), min(1.0, agreeing / 3)
    return (agreeing * same + (people - agreeing) * different) / people


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the VQA accuracy of a prediction; both sides are normalized as the benchmark requires."""
    return consensus(answers.count(prediction), len(answers))
