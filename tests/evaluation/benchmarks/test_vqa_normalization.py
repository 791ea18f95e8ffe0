"""Normalization and comparison of short answers: hand-written cases of each rule."""

from __future__ import annotations

import pytest

from aligngpt.evaluation.benchmarks import vqa_normalization as vqa


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Red", "red"),
        (" \tRed wine\n", "red wine"),
        ("red\twine", "red wine"),
        ("red   wine", "red wine"),
        ("red\u2003wine", "red wine"),  # white space of any alphabet splits words
        ("", ""),
        ("?!.", ""),
        # Articles are removed, as whole words.
        ("a cat", "cat"),
        ("An apple on the table", "apple on table"),
        ("anthem", "anthem"),
        ("the", ""),
        # Numbers up to ten, as whole words.
        ("two", "2"),
        ("None", "0"),
        ("zero to ten", "0 to 10"),
        ("eleven", "eleven"),
        ("someone", "someone"),
        ("twenty one", "twenty 1"),
        # Periods are removed unless a digit follows.
        ("p.m.", "pm"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("5.", "5"),
        ("v1.b", "v1b"),
        ("\u0663.\u0665", "\u0663.\u0665"),  # a digit of any alphabet
        # Punctuation becomes a space, and is deleted if the same character touches a space anywhere.
        ("red/white", "red white"),
        ("red / white", "red white"),
        ("red/white / blue", "redwhite blue"),
        ("t-shirt", "t shirt"),
        ("t-shirt -", "tshirt"),
        ("(left)", "left"),
        ("left) side", "left side"),
        ('"stop"', "stop"),
        ("stop;go", "stop go"),
        ("e=mc2", "e mc2"),
        ("me@home", "me home"),
        ("rock & roll", "rock & roll"),  # not in the official list
        ("$5", "$5"),
        ("9:30", "9:30"),
        ("50%", "50%"),
        ("\u201cstop\u201d", "\u201cstop\u201d"),  # nor are typographic quotes
        # Commas and question marks are removed first, which joins numbers.
        ("1,000", "1000"),
        ("red, white", "red white"),
        ("red,white", "redwhite"),
        ("really?", "really"),
        # 's is separated, contractions get their apostrophe.
        ("John's", "john 's"),
        ("it's", "it 's"),
        ("dont", "don't"),
        ("Dont know", "don't know"),
        ("don't", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("oclock", "o'clock"),
        ("10 oclock", "10 o'clock"),
        ("twas", "'twas"),
        ("yalld've", "yalld've"),
        ("y'alld've", "y'all'd've"),
        ("somebody'd", "somebodyd"),  # reversed in the official table
        ("Im", "im"),  # keys with capitals can never match
        ("its", "its"),
        ("hell", "hell"),
        # Other alphabets are unchanged.
        ("Caf\u00e9", "caf\u00e9"),
        ("\u4f60\u597d\u3002", "\u4f60\u597d\u3002"),
    ],
)
def test_normalize(text: str, normal: str) -> None:
    assert vqa.normalize(text) == normal


def test_punctuation_that_touches_a_space_is_deleted_everywhere() -> None:
    assert vqa.strip_punctuation("t-shirt - red") == "tshirt  red"
    assert vqa.strip_punctuation("t-shirt red") == "t shirt red"


def test_number_with_a_comma_deletes_all_punctuation() -> None:
    assert vqa.strip_punctuation("1,000 t-shirts") == "1000 tshirts"
    assert vqa.strip_punctuation("1, 000 t-shirts") == "1 000 t shirts"
    assert vqa.strip_punctuation("a,b t-shirts") == "a b t shirts"
    assert vqa.strip_punctuation("\u0661,\u0662-x") == "\u0661\u0662x"


def test_at_most_32_periods_are_deleted() -> None:
    assert vqa.strip_punctuation("x" + 32 * ".") == "x"
    assert vqa.strip_punctuation("x" + 34 * ".") == "x.."
    assert vqa.strip_punctuation(".1" * 3 + "." * 33) == ".1.1.1."


def test_contractions_equal_the_official_tables() -> None:
    assert len(vqa.CONTRACTIONS) == 114
    assert all(key == key.lower() and key != value for key, value in vqa.CONTRACTIONS.items())
    wrong = {key for key, value in vqa.CONTRACTIONS.items() if len(value) != len(key) + 1}
    assert wrong == {"somebody'd"}


def test_vizwiz_spells_most_contractions_with_a_typographic_apostrophe() -> None:
    table = vqa.VIZWIZ_CONTRACTIONS
    assert table["dont"] == "don\u2019t"
    assert table["youre"] == "you\u2019re"
    assert table["couldnt\u2019ve"] == table["couldnt've"] == "couldn\u2019t\u2019ve"
    typewritten = {key for key, value in table.items() if "'" in value}
    assert typewritten == {"aint", "arent", "cant", "couldve", "couldnt", "weve", "wheres", "whove"}


@pytest.mark.parametrize(
    ("agreeing", "people", "expected"),
    [(0, 10, 0), (1, 10, 0.3), (2, 10, 0.6), (3, 10, 0.9), (4, 10, 1), (10, 10, 1), (1, 1, 0), (3, 3, 2 / 3)],
)
def test_consensus(agreeing: int, people: int, expected: float) -> None:
    assert vqa.consensus(agreeing, people) == pytest.approx(expected, abs=1e-15)
    slowly = [min(1, (agreeing - (person < agreeing)) / 3) for person in range(people)]
    assert vqa.consensus(agreeing, people) == pytest.approx(sum(slowly) / people)
