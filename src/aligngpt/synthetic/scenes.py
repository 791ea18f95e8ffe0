"""The drawn world: scenes of colored shapes on a 3 x 3 grid, how they look and what can truly be said of them.

Everything is a pure function of a `random.Random`, so a seed fixes every image and every word. The truth of a scene
is its list of `SceneObject`s; captions keep the objects and attributes they tell, so their coverage is known exactly.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star")
COLORS = {
    "red": (220, 45, 45),
    "green": (45, 170, 70),
    "blue": (55, 90, 225),
    "yellow": (238, 212, 60),
    "purple": (150, 65, 195),
    "orange": (243, 140, 40),
    "white": (244, 244, 244),
}
SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
NUMBERS = ("zero", "one", "two", "three", "four")
ATTRIBUTES = ("size", "color", "shape", "place")

GRID = 3
MAX_THINGS = 4
IMAGE_SIZE = 96  # pixels a side
_TEST_SHARE = 5  # one scene in five belongs to the test split
_SUPERSAMPLING = 3


@dataclass(frozen=True)
class SceneObject:
    """One shape of a scene. In a caption an attribute may be empty: not told."""

    size: str
    color: str
    shape: str
    place: str

    def facts(self) -> int:
        """Number of attributes told, 0 to 4."""
        return sum(getattr(self, name) != "" for name in ATTRIBUTES)

    def holds_for(self, other: SceneObject) -> bool:
        """Whether every attribute told here is true of `other`."""
        return all(getattr(self, name) in ("", getattr(other, name)) for name in ATTRIBUTES)

    def phrase(self) -> str:
        """The thing in words, such as `a large red circle at the top left`."""
        words = [word for word in (self.size, self.color, self.shape or "object") if word]
        article = "an" if words[0][0] in "aeiou" else "a"
        place = f" at the {self.place}" if self.place else ""
        return f"{article} {' '.join(words)}{place}"


@dataclass(frozen=True)
class Scene:
    """One to four objects, in reading order of their places, no two at one place."""

    objects: tuple[SceneObject, ...]

    @property
    def split(self) -> str:
        """`"train"` or `"test"`, fixed by the scene's content, so that no scene can be in both."""
        # The name in this text is part of the split: the shipped backbones were trained on the train scenes it gives.
        text = repr(self.objects).replace(f"{SceneObject.__name__}(", "Thing(")
        digest = hashlib.sha256(text.encode()).digest()
        return "test" if digest[0] % _TEST_SHARE == 0 else "train"


@dataclass(frozen=True)
class Caption:
    """A caption with the truth about it.

    Attributes:
        text: What a reader of the data sees.
        kind: `whole`, `part`, `dropped` (attributes left out) or `mismatched` (another image's).
        coverage: Share of the scene's facts (four a thing) that the caption tells truly, 0 to 1.
    """

    text: str
    kind: str
    coverage: float


@dataclass(frozen=True)
class Question:
    """A question about a scene with its only right answer, and for descriptions the objects to be named."""

    kind: str
    text: str
    answer: str


def sample_scene(rng: random.Random, split: str | None = None) -> Scene:
    """Draw a scene, of the given split if one is named."""
    while True:
        places = sorted(rng.sample(range(len(PLACES)), rng.randint(1, MAX_THINGS)))
        scene = Scene(
            tuple(
                SceneObject(rng.choice(SIZES), rng.choice(tuple(COLORS)), rng.choice(SHAPES), PLACES[place])
                for place in places
            )
        )
        if split is None or scene.split == split:
            return scene


# --------------------------------------------------------------------------------------------------------- images


def draw_scene(scene: Scene, rng: random.Random, size: int = IMAGE_SIZE) -> Image.Image:
    """Draw a scene as an RGB image of `size` x `size` pixels.

    Drawn at three times the size and scaled down, which smooths the edges. Background, brightness and exact position
    vary a little with `rng`, as they would between photographs of one subject.
    """
    canvas = size * _SUPERSAMPLING
    cell = canvas / GRID
    shade = rng.randint(24, 44)
    image = Image.new("RGB", (canvas, canvas), (shade, shade, shade + rng.randint(4, 14)))
    draw = ImageDraw.Draw(image)
    for thing in scene.objects:
        row, column = divmod(PLACES.index(thing.place), GRID)
        radius = cell * (0.42 if thing.size == "large" else 0.24) * rng.uniform(0.95, 1.05)
        slack = 0.06 * cell
        x = (column + 0.5) * cell + rng.uniform(-slack, slack)
        y = (row + 0.5) * cell + rng.uniform(-slack, slack)
        light = rng.uniform(0.9, 1.05)
        color = tuple(min(255, round(channel * light)) for channel in COLORS[thing.color])
        _draw_shape(draw, thing.shape, x, y, radius, color)
    return image.resize((size, size), Image.Resampling.BOX)


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, color: tuple) -> None:
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
    elif shape == "square":
        draw.rectangle((x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r), fill=color)
    elif shape == "cross":
        arm = 0.34 * r
        draw.rectangle((x - arm, y - r, x + arm, y + r), fill=color)
        draw.rectangle((x - r, y - arm, x + r, y + arm), fill=color)
    else:
        draw.polygon([(x + r * u, y + r * v) for u, v in _POLYGONS[shape]], fill=color)


def _star_points() -> list[tuple[float, float]]:
    points = []
    for corner in range(10):
        reach = 1.0 if corner % 2 == 0 else 0.42
        angle = -math.pi / 2 + corner * math.pi / 5
        points.append((reach * math.cos(angle), reach * math.sin(angle)))
    return points


_POLYGONS = {
    "triangle": [(0.0, -1.0), (0.95, 0.8), (-0.95, 0.8)],
    "diamond": [(0.0, -1.0), (0.7, 0.0), (0.0, 1.0), (-0.7, 0.0)],
    "star": _star_points(),
}


# --------------------------------------------------------------------------------------------------------- captions


def join_phrases(phrases: list[str]) -> str:
    """`a, b and c`."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def describe(objects: tuple[SceneObject, ...] | list[SceneObject]) -> str:
    """A sentence that tells the given objects, in their order."""
    return join_phrases([thing.phrase() for thing in objects]) + "."


def coverage(scene: Scene, told: tuple[SceneObject, ...] | list[SceneObject]) -> float:
    """Share of the scene's facts told truly, 0 to 1: a phrase counts if all it says is true of one thing."""
    left = list(scene.objects)
    facts = 0
    for phrase in told:
        match = next((thing for thing in left if phrase.holds_for(thing)), None)
        if match is not None:
            left.remove(match)
            facts += phrase.facts()
    return facts / (len(ATTRIBUTES) * len(scene.objects))


def web_caption(scene: Scene, rng: random.Random, others: str | None = None) -> Caption:
    """A caption of uneven quality, as found on the web.

    A quarter each: everything; some of the objects; objects without size, place or both; another image's caption.

    Args:
        scene: What the caption stands beside.
        rng: Draws kind and words.
        others: The split that another image's caption comes from; any by default.
    """
    kind = rng.choice(("whole", "part", "dropped", "mismatched"))
    if kind == "part" and len(scene.objects) == 1:
        kind = "dropped"
    told = list(scene.objects)
    if kind == "mismatched":
        told = list(sample_scene(rng, others).objects)
        told = _some(told, rng.randint(1, len(told)), rng)
    elif kind == "part":
        told = _some(told, rng.randint(1, len(told) - 1), rng)
    elif kind == "dropped":
        told = _drop_attributes(_some(told, rng.randint(1, len(told)), rng), rng)
    return Caption(describe(told), kind, coverage(scene, told))


def _some(objects: list[SceneObject], number: int, rng: random.Random) -> list[SceneObject]:
    return [objects[index] for index in sorted(rng.sample(range(len(objects)), number))]


def _drop_attributes(objects: list[SceneObject], rng: random.Random) -> list[SceneObject]:
    keep_size, keep_place = rng.choice(((False, False), (False, False), (True, False), (False, True)))
    return [
        SceneObject(thing.size if keep_size else "", thing.color, thing.shape, thing.place if keep_place else "")
        for thing in objects
    ]


def parse_objects(text: str) -> list[SceneObject]:
    """Read a caption or description back into objects; words that say nothing of a thing are passed over.

    The inverse of `describe` for well-formed text, and lenient otherwise, since models write what they like.
    """
    objects = []
    sentence = text.strip().rstrip(".").replace(" and ", ", ")
    for phrase in sentence.split(","):
        words = phrase.replace(" at the ", " | ").split(" | ")
        head = words[0].split()
        place = words[1].strip() if len(words) > 1 and words[1].strip() in PLACES else ""
        size, color, shape = (next((word for word in head if word in known), "") for known in (SIZES, COLORS, SHAPES))
        if color or shape:
            objects.append(SceneObject(size, color, shape, place))
    return objects


# -------------------------------------------------------------------------------------------------------- questions


def _ask_count(scene: Scene, rng: random.Random) -> Question:
    return Question("count", "How many objects are there?", NUMBERS[len(scene.objects)])


def _ask_color_count(scene: Scene, rng: random.Random) -> Question:
    present = [thing.color for thing in scene.objects]
    color = rng.choice(present) if rng.random() < 0.7 else rng.choice(tuple(COLORS))
    return Question("color_count", f"How many {color} objects are there?", NUMBERS[present.count(color)])


def _ask_existence(scene: Scene, rng: random.Random) -> Question:
    present = [(thing.color, thing.shape) for thing in scene.objects]
    wanted = rng.random() < 0.5
    if wanted:
        color, shape = rng.choice(present)
    else:
        absent = [(color, shape) for color in COLORS for shape in SHAPES if (color, shape) not in present]
        color, shape = rng.choice(absent)
    article = "an" if color[0] in "aeiou" else "a"
    return Question("existence", f"Is there {article} {color} {shape}?", "yes" if wanted else "no")


def _ask_color_at(scene: Scene, rng: random.Random) -> Question:
    thing = rng.choice(scene.objects)
    return Question("color_at", f"What color is the object at the {thing.place}?", thing.color)


def _ask_shape_at(scene: Scene, rng: random.Random) -> Question:
    thing = rng.choice(scene.objects)
    return Question("shape_at", f"What shape is the object at the {thing.place}?", thing.shape)


def _ask_place_of(scene: Scene, rng: random.Random) -> Question | None:
    names = [(thing.color, thing.shape) for thing in scene.objects]
    unique = [thing for thing in scene.objects if names.count((thing.color, thing.shape)) == 1]
    if not unique:
        return None
    thing = rng.choice(unique)
    return Question("place_of", f"Where is the {thing.color} {thing.shape}?", thing.place)


def _ask_description(scene: Scene, rng: random.Random) -> Question:
    return Question("description", "Describe the picture.", describe(scene.objects))


_ASKERS = {
    "count": _ask_count,
    "color_count": _ask_color_count,
    "existence": _ask_existence,
    "color_at": _ask_color_at,
    "shape_at": _ask_shape_at,
    "place_of": _ask_place_of,
    "description": _ask_description,
}
QUESTION_KINDS = tuple(_ASKERS)


def ask(scene: Scene, kind: str, rng: random.Random) -> Question | None:
    """A question of the given kind, or `None` where the scene allows none (no thing has a name of its own)."""
    return _ASKERS[kind](scene, rng)


def sample_questions(scene: Scene, number: int, rng: random.Random) -> list[Question]:
    """`number` questions of different kinds about one scene, in random order."""
    kinds = rng.sample(QUESTION_KINDS, len(QUESTION_KINDS))
    asked = (ask(scene, kind, rng) for kind in kinds)
    return [question for question, _ in zip((q for q in asked if q), range(number), strict=False)]


def scenes(rng: random.Random, split: str, number: int) -> list[Scene]:
    """`number` different scenes of one split."""
    found: dict[Scene, None] = {}
    while len(found) < number:
        found.setdefault(sample_scene(rng, split))
    return list(found)
