"""Option letters in free-form answers: hand-written cases of each rule."""

from __future__ import annotations

import pytest

from aligngpt.evaluation.benchmarks.option_matching import infer_option

FOUR = {"A": "a cat", "B": "a dog", "C": "an old horse", "D": "Birds"}
TWO = {"A": "yes", "B": "no"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        # Refusals.
        ("I'm sorry, but without the image provided, A", "Z"),
        ("Cannot determine the answer", "Z"),
        ("cannot determine the answer", None),
        # A letter as a word.
        ("B", "B"),
        (" B\n", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("[B]", "B"),
        ("**B**", "B"),
        ("#B", "B"),
        ("{B}", "B"),
        ("Answer: B", "B"),
        ("B: a cat", "B"),
        ("B. a cat", "B"),  # the letter, regardless of the text after it
        ("It is B, B and B", "B"),
        ("b", None),
        ("/B", None),
        ("B/C", None),
        ("B-x", None),
        ("choice_B", None),
        ("\uff22", None),  # a full-width letter
        ("\u7b54\u6848: B", "B"),
        ("\u7b54\u6848\uff1aB", None),
        ("\u7b54\u6848\u662fB", None),
        ("B\u3002", None),
        ("E", None),
        # First occurrence among the last four words.
        ("B one two three", "B"),
        ("B one two three four", None),
        ("B one two three B", None),
        # Several letters.
        ("A or B", None),
        ("A, B", None),
        # Z without an option letter.
        ("Z", "Z"),
        ("Z or B", "B"),
        ("it says Z somewhere in the middle of this", "Z"),
        # `answer is` and a letter.
        ("The correct answer is **C**. It stands in the field all day", "C"),
        ("answer is  d because of A, B and everything else", "D"),
        ("The answer is B because A is not", "B"),
        ("The answer is a matter of taste, and A or B", "A"),  # the letter may start a word
        ("The answer isC, or A or D", None),
        ("The answer is E, not A or B", None),
        # The text of one option.
        ("It is a cat", "A"),
        ("BIRDS!", "D"),
        ("a cat and a dog", None),
        ("the old horse", None),
        ("a cat" + " x" * 25, None),  # 55 letters against twice 27
        ("a cat" + " x" * 24, "A"),
        ("", None),
        ("nan", None),
    ],
)
def test_infer_option(text: str, letter: str | None) -> None:
    assert infer_option(text, FOUR) == letter


def test_missing_options_are_ignored() -> None:
    assert infer_option("C", TWO) is None
    assert infer_option("B or C", TWO) == "B"
    assert infer_option("The answer is C, or A or B", TWO) is None
    assert infer_option("I know it", TWO) == "B"  # `no` within a word, 9 letters against twice 5
    assert infer_option("I do not know", TWO) is None  # 13 letters


def test_numbers_and_options_within_options() -> None:
    assert infer_option("12", {"A": "1", "B": "2"}) is None
    assert infer_option("3", {"A": "1", "B": "3"}) == "B"
    assert infer_option("red apple", {"A": "red", "B": "red apple"}) is None
    assert infer_option("nan", {"A": "an", "B": "x"}) == "A"


def test_length_is_that_of_the_lower_case_text() -> None:
    assert len("\u0130".lower()) == 2
    assert infer_option("\u0130a", {"A": "a"}) is None  # three letters in lower case, against twice one
    assert infer_option("xa", {"A": "a"}) == "A"
