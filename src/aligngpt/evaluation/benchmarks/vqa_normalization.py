"""VQA accuracy: answers of one word or phrase against those of ten people, and how such answers are normalized."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # the official code hands a flag over where this number belongs
_COMMA_IN_NUMBER = re.compile(r"\d,\d")

_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"} | {
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
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
    """Each contraction by its spellings that lack one apostrophe.

    Args:
        typographic: As VizWiz writes them: most of them get the apostrophe U+2019.
    """
    table = {"somebody'd": "somebodyd"}  # the wrong way round in the official tables, too
    for word in _SPELLED.split():
        spelled = word.replace("'", "\u2019") if typographic and word not in _TYPEWRITTEN else word
        for place, letter in enumerate(word):
            if letter == "'":
                table[word[:place] + word[place + 1 :]] = spelled
    if typographic:
        table |= {key.replace("'", "\u2019"): spelled for key, spelled in table.items()}
    return table


CONTRACTIONS = _contractions(typographic=False)
VIZWIZ_CONTRACTIONS = _contractions(typographic=True)


def one_line(text: str) -> str:
    """A text with newlines and tabs as spaces, trimmed."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def strip_punctuation(text: str) -> str:
    """Take punctuation out of a text: the official step, with its oddities.

    A mark is deleted wherever it stands if it touches a space anywhere, or if the text has a number such as 1,000;
    otherwise each becomes a space. Periods go unless a digit follows, the first 32 of them.
    """
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    stripped = text
    for mark in _MARKS:
        if mark in text:
            apart = in_number or f"{mark} " in text or f" {mark}" in text
            stripped = stripped.replace(mark, "" if apart else " ")
    return _PERIOD.sub("", stripped, count=_MOST_PERIODS)


def plain_words(text: str, contractions: Mapping[str, str] = CONTRACTIONS) -> str:
    """Lower-case words, numbers up to ten as digits, without articles, contractions with their apostrophe."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=1 << 16)
def normalize(text: str) -> str:
    """Normalise an answer as LLaVA does before an upload to VQAv2 or VizWiz, and TextVQA on both sides."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return plain_words(strip_punctuation(one_line(text)))


def consensus(agreeing: int, people: int) -> float:
    """VQA accuracy of an answer, from how many people gave it.

    For each person, min(1, n / 3) with n the others who agree; the mean over all. Of ten people 1, 2, 3 and 4 or more
    give 0.3, 0.6, 0.9 and 1.

    Args:
        agreeing: 0 to `people`.
        people: At least 1.
    """
    among, besides = min(1.0, max(0, agreeing - 1) / 3), min(1.0, agreeing / 3)
    return (agreeing * among + (people - agreeing) * besides) / people


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA accuracy of a prediction against people's answers, all normalized as the benchmark wants it."""
    return consensus(answers.count(prediction), len(answers))
