"""Answers and coverage computed from the words only, with slow loops."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import permutations

from aligngpt.synthetic.scenes import SceneObject

NUMBERS = {0: "zero", 1: "one", 2: "two", 3: "three", 4: "four"}


def answer(question: str, objects: Sequence[SceneObject]) -> str:
    """Answer a question about these objects."""
    if question == "How many objects are there?":
        return NUMBERS[len(objects)]
    if match := re.fullmatch(r"How many (\w+) objects are there\?", question):
        return NUMBERS[sum(item.color == match[1] for item in objects)]
    if match := re.fullmatch(r"Is there an? (\w+) (\w+)\?", question):
        return "yes" if any((item.color, item.shape) == (match[1], match[2]) for item in objects) else "no"
    if match := re.fullmatch(r"What (color|shape) is the object at the (.+)\?", question):
        [item] = [item for item in objects if item.place == match[2]]
        return item.color if match[1] == "color" else item.shape
    if match := re.fullmatch(r"Where is the (\w+) (\w+)\?", question):
        [item] = [item for item in objects if (item.color, item.shape) == (match[1], match[2])]
        return item.place
    assert question == "Describe the picture.", question
    phrases = []
    for item in objects:
        article = "a"  # every size begins with a consonant
        phrases.append(f"{article} {item.size} {item.color} {item.shape} at the {item.place}")
    *others, last = phrases
    return (f"{', '.join(others)} and {last}" if others else last) + "."


def coverage(objects: Sequence[SceneObject], described: Sequence[SceneObject]) -> float:
    """Return the best matching of phrases to objects, as a fraction of four facts per object."""

    def facts(phrase: SceneObject, item: SceneObject) -> int:
        pairs = [(getattr(phrase, name), getattr(item, name)) for name in ("size", "color", "shape", "place")]
        if any(word and word != true for word, true in pairs):
            return 0
        return sum(word != "" for word, _ in pairs)

    padded = [*objects, *[SceneObject("", "", "", "")] * len(described)]
    best = max(
        sum(facts(phrase, item) for phrase, item in zip(described, order, strict=False))
        for order in permutations(padded, len(described))
    )
    return best / (4 * len(objects))
