"""Scenes of colored shapes on a 3 x 3 grid: images, captions and questions with known answers.

Everything is a pure function of a `random.Random`, so a seed fixes every image and every word. The ground truth of a
scene is its tuple of `SceneObject`s; the objects and attributes that a caption describes are known, hence its coverage.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
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
MAX_OBJECTS = 4
IMAGE_SIZE = 96  # pixels per side
_TEST_FRACTION = 5  # one scene in five belongs to the test split
_SUPERSAMPLING = 3


@dataclass(frozen=True)
class SceneObject:
    """One shape of a scene, or its mention in a caption, where an attribute that is not described is empty."""

    size: str
    color: str
    shape: str
    place: str

    @property
    def num_facts(self) -> int:
        """Number of attributes that are not empty, 0 to 4."""
        return sum(getattr(self, name) != "" for name in ATTRIBUTES)

    def is_true_of(self, scene_object: SceneObject) -> bool:
        """Whether every attribute that is not empty equals that of `scene_object`."""
        return all(getattr(self, name) in ("", getattr(scene_object, name)) for name in ATTRIBUTES)

    def to_phrase(self) -> str:
        """Return the object in words, such as `a large red circle at the top left`."""
        words = [word for word in (self.size, self.color, self.shape or "object") if word]
        article = "an" if words[0][0] in "aeiou" else "a"
        place = f" at the {self.place}" if self.place else ""
        return f"{article} {' '.join(words)}{place}"


@dataclass(frozen=True)
class Scene:
    """One to four objects in reading order of their places, at most one per place."""

    objects: tuple[SceneObject, ...]

    @property
    def split(self) -> str:
        """`"train"` or `"test"`, a function of the scene's content, so that no scene is in both."""
        # The shipped backbones were trained on the train split that this text defines, so the name in it is fixed.
        text = repr(self.objects).replace(f"{SceneObject.__name__}(", "Thing(")
        digest = hashlib.sha256(text.encode()).digest()
        return "test" if digest[0] % _TEST_FRACTION == 0 else "train"


@dataclass(frozen=True)
class Caption:
    """A caption with its ground truth.

    Attributes:
        text: The caption.
        kind: `whole`, `part` (of the objects), `dropped` (without some attributes) or `mismatched` (of another image).
        coverage: Fraction of the scene's facts (four per object) that the caption states correctly, 0 to 1.
    """

    text: str
    kind: str
    coverage: float


@dataclass(frozen=True)
class SceneQuestion:
    """A question about a scene with its only correct answer."""

    kind: str
    text: str
    answer: str


def sample_scene(rng: random.Random, split: str | None = None) -> Scene:
    """Sample a scene, of one split or of both."""
    while True:
        places = sorted(rng.sample(range(len(PLACES)), rng.randint(1, MAX_OBJECTS)))
        scene = Scene(
            tuple(
                SceneObject(rng.choice(SIZES), rng.choice(tuple(COLORS)), rng.choice(SHAPES), PLACES[place])
                for place in places
            )
        )
        if split is None or scene.split == split:
            return scene


# --------------------------------------------------------------------------------------------------------- images


def render_scene(scene: Scene, rng: random.Random, size: int = IMAGE_SIZE) -> Image.Image:
    """Render a scene as an RGB image of `size` x `size` pixels.

    It is rendered at three times the size and scaled down, which smooths the edges. Background, brightness and exact
    position vary slightly with `rng`, as between photographs of one subject.
    """
    canvas = size * _SUPERSAMPLING
    cell = canvas / GRID
    shade = rng.randint(24, 44)
    image = Image.new("RGB", (canvas, canvas), (shade, shade, shade + rng.randint(4, 14)))
    draw = ImageDraw.Draw(image)
    for item in scene.objects:
        row, column = divmod(PLACES.index(item.place), GRID)
        radius = cell * (0.42 if item.size == "large" else 0.24) * rng.uniform(0.95, 1.05)
        slack = 0.06 * cell
        x = (column + 0.5) * cell + rng.uniform(-slack, slack)
        y = (row + 0.5) * cell + rng.uniform(-slack, slack)
        light = rng.uniform(0.9, 1.05)
        color = tuple(min(255, round(channel * light)) for channel in COLORS[item.color])
        _draw_shape(draw, item.shape, x, y, radius, color)
    return image.resize((size, size), Image.Resampling.BOX)


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, color: tuple) -> None:
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
    elif shape == "square":
        draw.rectangle((x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r), fill=color)
    elif shape == "cross":
        half = 0.34 * r
        draw.rectangle((x - half, y - r, x + half, y + r), fill=color)
        draw.rectangle((x - r, y - half, x + r, y + half), fill=color)
    else:
        draw.polygon([(x + r * u, y + r * v) for u, v in _POLYGONS[shape]], fill=color)


def _star_points() -> list[tuple[float, float]]:
    points = []
    for corner in range(10):
        radius = 1.0 if corner % 2 == 0 else 0.42
        angle = -math.pi / 2 + corner * math.pi / 5
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return points


_POLYGONS = {
    "triangle": [(0.0, -1.0), (0.95, 0.8), (-0.95, 0.8)],
    "diamond": [(0.0, -1.0), (0.7, 0.0), (0.0, 1.0), (-0.7, 0.0)],
    "star": _star_points(),
}


# --------------------------------------------------------------------------------------------------------- captions


def describe(objects: Sequence[SceneObject]) -> str:
    """Describe objects in one sentence, in their order."""
    *phrases, last = [item.to_phrase() for item in objects]
    return f"{', '.join(phrases)} and {last}." if phrases else f"{last}."


def measure_coverage(scene: Scene, described: Sequence[SceneObject]) -> float:
    """Return the fraction of the scene's facts that a caption states correctly, 0 to 1.

    Args:
        scene: The scene of the image.
        described: The objects of the caption; one counts if everything it states is true of an object that no earlier
            one was counted for.
    """
    remaining = list(scene.objects)
    facts = 0
    for mention in described:
        match = next((item for item in remaining if mention.is_true_of(item)), None)
        if match is not None:
            remaining.remove(match)
            facts += mention.num_facts
    return facts / (len(ATTRIBUTES) * len(scene.objects))


def sample_caption(scene: Scene, rng: random.Random, mismatched_split: str | None = None) -> Caption:
    """Sample a caption of uneven quality, as captions from the web are.

    Each with probability 1/4: all objects; some of the objects; objects without size, place or both; another image's
    caption.

    Args:
        scene: The scene of the image.
        rng: Decides kind and words.
        mismatched_split: Split that another image's caption comes from; both if None.
    """
    kind = rng.choice(("whole", "part", "dropped", "mismatched"))
    if kind == "part" and len(scene.objects) == 1:
        kind = "dropped"
    described = list(scene.objects)
    if kind == "mismatched":
        described = list(sample_scene(rng, mismatched_split).objects)
        described = _sample_objects(described, rng.randint(1, len(described)), rng)
    elif kind == "part":
        described = _sample_objects(described, rng.randint(1, len(described) - 1), rng)
    elif kind == "dropped":
        described = _drop_attributes(_sample_objects(described, rng.randint(1, len(described)), rng), rng)
    return Caption(describe(described), kind, measure_coverage(scene, described))


def _sample_objects(objects: list[SceneObject], number: int, rng: random.Random) -> list[SceneObject]:
    return [objects[index] for index in sorted(rng.sample(range(len(objects)), number))]


def _drop_attributes(objects: list[SceneObject], rng: random.Random) -> list[SceneObject]:
    keep_size, keep_place = rng.choice(((False, False), (False, False), (True, False), (False, True)))
    return [
        SceneObject(item.size if keep_size else "", item.color, item.shape, item.place if keep_place else "")
        for item in objects
    ]


def parse_objects(text: str) -> list[SceneObject]:
    """Parse a caption or description into objects, ignoring words that describe none.

    The inverse of `describe` for well-formed text, and lenient otherwise, since models write any text.
    """
    objects = []
    sentence = text.strip().rstrip(".").replace(" and ", ", ")
    for phrase in sentence.split(","):
        words = phrase.replace(" at the ", " | ").split(" | ")
        head = words[0].split()
        place = words[1].strip() if len(words) > 1 and words[1].strip() in PLACES else ""
        size, color, shape = (next((word for word in head if word in names), "") for names in (SIZES, COLORS, SHAPES))
        if color or shape:
            objects.append(SceneObject(size, color, shape, place))
    return objects


# -------------------------------------------------------------------------------------------------------- questions


def _ask_count(scene: Scene, rng: random.Random) -> SceneQuestion:
    return SceneQuestion("count", "How many objects are there?", NUMBERS[len(scene.objects)])


def _ask_color_count(scene: Scene, rng: random.Random) -> SceneQuestion:
    present = [item.color for item in scene.objects]
    color = rng.choice(present) if rng.random() < 0.7 else rng.choice(tuple(COLORS))
    return SceneQuestion("color_count", f"How many {color} objects are there?", NUMBERS[present.count(color)])


def _ask_existence(scene: Scene, rng: random.Random) -> SceneQuestion:
    present = [(item.color, item.shape) for item in scene.objects]
    exists = rng.random() < 0.5
    if exists:
        color, shape = rng.choice(present)
    else:
        absent = [(color, shape) for color in COLORS for shape in SHAPES if (color, shape) not in present]
        color, shape = rng.choice(absent)
    article = "an" if color[0] in "aeiou" else "a"
    return SceneQuestion("existence", f"Is there {article} {color} {shape}?", "yes" if exists else "no")


def _ask_color_at(scene: Scene, rng: random.Random) -> SceneQuestion:
    item = rng.choice(scene.objects)
    return SceneQuestion("color_at", f"What color is the object at the {item.place}?", item.color)


def _ask_shape_at(scene: Scene, rng: random.Random) -> SceneQuestion:
    item = rng.choice(scene.objects)
    return SceneQuestion("shape_at", f"What shape is the object at the {item.place}?", item.shape)


def _ask_place_of(scene: Scene, rng: random.Random) -> SceneQuestion | None:
    names = [(item.color, item.shape) for item in scene.objects]
    unique = [item for item in scene.objects if names.count((item.color, item.shape)) == 1]
    if not unique:
        return None
    item = rng.choice(unique)
    return SceneQuestion("place_of", f"Where is the {item.color} {item.shape}?", item.place)


def _ask_description(scene: Scene, rng: random.Random) -> SceneQuestion:
    return SceneQuestion("description", "Describe the picture.", describe(scene.objects))


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


def ask(scene: Scene, kind: str, rng: random.Random) -> SceneQuestion | None:
    """Return a question of one kind, or None if the scene allows none, as `place_of` where objects look alike."""
    return _ASKERS[kind](scene, rng)


def sample_questions(scene: Scene, number: int, rng: random.Random) -> list[SceneQuestion]:
    """Sample `number` questions of different kinds about one scene, in random order; fewer if it allows no more."""
    kinds = rng.sample(QUESTION_KINDS, len(QUESTION_KINDS))
    questions = (ask(scene, kind, rng) for kind in kinds)
    # `zip` asks for one question more than it returns; each seed's dataset depends on the random numbers this consumes.
    return [question for question, _ in zip((q for q in questions if q), range(number), strict=False)]


def sample_scenes(rng: random.Random, split: str, number: int) -> list[Scene]:
    """Sample `number` different scenes of one split."""
    scenes: dict[Scene, None] = {}
    while len(scenes) < number:
        scenes.setdefault(sample_scene(rng, split))
    return list(scenes)
