"""Right answers and true coverage worked out the long way, from the words alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import permutations

from aligngpt.synthetic.scenes import SceneObject

NUMBERS = {0: "zero", 1: "one", 2: "two", 3: "three", 4: "four"}


def answer(question: str, objects: Sequence[SceneObject]) -> str:
    """What a person who sees these objects would say."""
    if question == "How many objects are there?":
        return NUMBERS[len(objects)]
    if found := re.fullmatch(r"How many (\w+) objects are there\?", question):
        return NUMBERS[sum(thing.color == found[1] for thing in objects)]
    if found := re.fullmatch(r"Is there an? (\w+) (\w+)\?", question):
        return "yes" if any((thing.color, thing.shape) == (found[1], found[2]) for thing in objects) else "no"
    if found := re.fullmatch(r"What (color|shape) is the object at the (.+)\?", question):
        [thing] = [thing for thing in objects if thing.place == found[2]]
        return thing.color if found[1] == "color" else thing.shape
    if found := re.fullmatch(r"Where is the (\w+) (\w+)\?", question):
        [thing] = [thing for thing in objects if (thing.color, thing.shape) == (found[1], found[2])]
        return thing.place
    assert question == "Describe the picture.", question
    phrases = []
    for thing in objects:
        article = "a"  # every size begins with a consonant
        phrases.append(f"{article} {thing.size} {thing.color} {thing.shape} at the {thing.place}")
    *others, last = phrases
    return (f"{', '.join(others)} and {last}" if others else last) + "."


def coverage(objects: Sequence[SceneObject], told: Sequence[SceneObject]) -> float:
    """The best that any matching of phrases to objects gives, over four facts a thing."""

    def facts(phrase: SceneObject, thing: SceneObject) -> int:
        said = [(getattr(phrase, name), getattr(thing, name)) for name in ("size", "color", "shape", "place")]
        if any(word and word != true for word, true in said):
            return 0
        return sum(word != "" for word, _ in said)

    padded = [*objects, *[SceneObject("", "", "", "")] * len(told)]
    best = max(
        sum(facts(phrase, thing) for phrase, thing in zip(told, order, strict=False))
        for order in permutations(padded, len(told))
    )
    return best / (4 * len(objects))
