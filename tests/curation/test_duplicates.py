"""Duplicates, near-duplicates and repeated captions are those of a slow comparison of all with all."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligngpt.curation import duplicates
from aligngpt.curation.duplicates import CaptionSample, DuplicateImages, ImageSample, NearDuplicates, RepeatedCaptions

PHOTOS = Path(__file__).resolve().parents[2].parent / "shared" / "photos" / "images"
Images = list[tuple[int, int, int]]  # hash of the bytes, hash of the name, perceptual hash


def sampled(images: Images, limit: int | None = None, batch: int = 50) -> tuple[DuplicateImages, NearDuplicates]:
    sample = ImageSample(limit)
    for start in range(0, len(images), batch):
        content, names, perceptual = zip(*images[start : start + batch], strict=True)
        sample.add(
            np.array(content, np.uint64), np.array(names, np.int64), np.array(perceptual, np.uint64),
            np.array(perceptual) > 0, np.arange(start, start + len(content)),
        )  # fmt: skip
    return sample.count()


def repeated(pairs: list[tuple[int, int]], limit: int | None = None) -> RepeatedCaptions:
    sample = CaptionSample(limit)
    for start in range(0, len(pairs), 70):
        captions, images = zip(*pairs[start : start + 70], strict=True)
        rows = np.arange(start, start + len(captions))
        sample.add(np.array(captions, np.uint64), np.array(images, np.uint64), rows)
    return sample.count()


def test_duplicates_are_those_of_a_slow_loop() -> None:
    rng = random.Random(0)
    images = [(rng.randrange(60), rng.randrange(8), 0) for _ in range(200)]
    result, near = sampled(images)
    names, sizes = defaultdict(set), Counter(content for content, *_ in images)
    for content, name, _ in images:
        names[content].add(name)
    assert (result.every, result.rows, result.images) == (1, 200, len(sizes))
    assert result.shared_rows == sum(size for size in sizes.values() if size > 1)
    assert result.duplicate_rows == sum(sizes[content] for content, existing in names.items() if len(existing) > 1)
    contents = [content for content, *_ in images]
    most = sorted((c for c in names if len(names[c]) > 1), key=lambda c: (-len(names[c]), contents.index(c)))[:8]
    assert [group.count for group in result.groups] == [len(names[content]) for content in most]
    for group, content in zip(result.groups, most, strict=True):
        assert [images[row][0] for row in group.rows] == [content] * len(group.rows)
        assert len({images[row][1] for row in group.rows}) == len(group.rows) == min(3, group.count)
        assert group.rows[0] == contents.index(content)
    assert near == NearDuplicates(0, 0, (), True)


def test_five_captions_of_one_image_are_no_duplicates() -> None:
    result, _ = sampled([(7, 1, 0)] * 5 + [(8, 2, 0)])
    assert (result.shared_rows, result.duplicate_rows, result.groups) == (5, 0, ())


def clustered(rng: random.Random, clusters: int, members: int) -> list[int]:
    """Different hashes in clusters: centers at random, members a few flipped bits away."""
    values = set()
    for _ in range(clusters):
        center = rng.getrandbits(64)
        for _ in range(members):
            flips = rng.sample(range(64), rng.randrange(8))
            values.add(center ^ sum(1 << bit for bit in flips))
    return sorted(values)


@pytest.mark.parametrize(("clusters", "members"), [(300, 1), (150, 2), (10, 40)])
def test_no_near_pair_is_missed(clusters: int, members: int) -> None:
    values = clustered(random.Random(clusters), clusters, members)
    slow = {
        (bits, one, other)
        for (one, a), (other, b) in combinations(enumerate(values), 2)
        if (bits := (a ^ b).bit_count()) <= duplicates.NEAR_BITS
    }
    twin, result, complete = duplicates.find_near_values(np.array(values, np.uint64))
    assert complete
    assert set(result) == slow
    assert set(np.flatnonzero(twin).tolist()) == {position for _, *pair in slow for position in pair}


def test_each_distance_up_to_four_bits_is_found_wherever_the_bits_are() -> None:
    rng = random.Random(5)
    for _ in range(200):
        value, bits = rng.getrandbits(64), rng.randrange(1, 7)
        other = value ^ sum(1 << bit for bit in rng.sample(range(64), bits))
        twin, result, _ = duplicates.find_near_values(np.array(sorted((value, other)), np.uint64))
        assert result == ([(bits, 0, 1)] if bits <= 4 else []) and twin.all() == (bits <= 4)


def test_too_many_similar_hashes_are_reported_as_incomplete() -> None:
    crowd = np.arange(1, 2_000, dtype=np.uint64)  # all agree in the upper 53 bits
    twin, result, complete = duplicates.find_near_values(crowd)
    assert not complete and len(result) == 2_000 and twin.mean() > 0.99


def test_near_duplicates_have_different_bytes() -> None:
    look = 0x0F0F_1234_5678_9ABC
    images = [(1, 1, look), (1, 2, look), (2, 3, look), (3, 4, look ^ 0b101), (4, 5, look ^ 0xFF), (5, 6, 0)]
    _, near = sampled(images)
    assert (near.images, near.near, near.complete) == (4, 3, True)
    assert near.pairs == ((0, 0, 2),)  # the third image is near both, and no image is shown twice
    _, near = sampled([(1, 1, look), (1, 2, look)])
    assert (near.images, near.near, near.pairs) == (1, 0, ())


def test_repeated_captions_are_those_of_a_slow_loop() -> None:
    rng = random.Random(1)
    pairs = [(int(rng.expovariate(0.05)), rng.randrange(30)) for _ in range(400)]
    result = repeated(pairs)
    over, sizes = defaultdict(set), Counter(caption for caption, _ in pairs)
    for caption, image in pairs:
        over[caption].add(image)
    several = {caption: len(images) for caption, images in over.items() if len(images) > 1}
    assert (result.every, result.rows, result.captions, result.repeated) == (1, 400, len(over), len(several))
    assert result.repeated_rows == sum(sizes[caption] for caption in several)
    assert result.duplicate_pairs == 400 - len(set(pairs))
    ends = [*duplicates.SPREAD[1:], 10**9]
    classes = zip(duplicates.SPREAD, ends, strict=True)
    assert result.spread == tuple(sum(first <= n < end for n in several.values()) for first, end in classes)
    assert [group.count for group in result.groups] == sorted(several.values(), reverse=True)[:8]
    for group in result.groups:
        assert len({pairs[row][0] for row in group.rows}) == 1
        assert len({pairs[row][1] for row in group.rows}) == len(group.rows)


def test_an_empty_sample_has_no_duplicates() -> None:
    images, near = ImageSample(None).count()
    assert (images.rows, images.groups, near.images) == (0, (), 0)
    assert CaptionSample(None).count().rows == 0


def test_a_sample_has_whole_groups_and_their_fraction() -> None:
    rng = np.random.default_rng(2)
    contents = rng.permutation(np.repeat(np.arange(40_000), np.where(np.arange(40_000) % 4 == 0, 3, 1)))
    images = [(int(content), row, 0) for row, content in enumerate(contents)]
    whole, _ = sampled(images, batch=5_000)
    part, _ = sampled(images, limit=10_000, batch=5_000)
    assert (whole.every, part.every) == (1, 8)
    assert 5_000 <= part.rows <= 10_000
    assert part.shared_rows / part.rows == pytest.approx(whole.shared_rows / whole.rows, abs=0.02)
    assert all(group.count == 3 for group in part.groups)
    captions = repeated([(content, row) for row, (content, *_) in enumerate(images[:20_000])], limit=3_000)
    assert captions.every == 8 and captions.rows <= 3_000


def test_one_hash_alone_cannot_break_the_bound() -> None:
    result, _ = sampled([(7, row, 0) for row in range(500)], limit=100)
    assert result.rows == 0 and result.every > 1


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no ../shared/photos next to the repository")
def test_versions_of_a_photograph_are_near_and_others_are_not() -> None:
    import io

    imagehash = pytest.importorskip("imagehash")

    def hashed(image: Image.Image) -> int:
        return int(str(imagehash.phash(image)), 16)

    def again(image: Image.Image, divisor: int, quality: int) -> Image.Image:
        buffer = io.BytesIO()
        image.resize((image.width // divisor, image.height // divisor)).save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.iterdir())[::4]]
    hashes = [hashed(photo) for photo in photos]
    for photo, existing in zip(photos, hashes, strict=True):
        for changed in (again(photo, 2, 70), again(photo, 3, 50), again(photo, 1, 30)):
            assert (hashed(changed) ^ existing).bit_count() <= duplicates.NEAR_BITS
    assert min((one ^ other).bit_count() for one, other in combinations(hashes, 2)) > 15
