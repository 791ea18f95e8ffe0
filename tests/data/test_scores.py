"""Scores are the cosine of the two embeddings, stand in the input's order, and survive an interruption."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aligngpt.data.images import BadImage, load_image
from aligngpt.data.pairs import BadRecord, ImageTextPair, ReadResult, read_pairs
from aligngpt.data.scores import SCHEMA, ClipScorer, ScoreSummary, read_manifest, read_scores, score_pairs
from tests.data.conftest import TEXT_LIMIT
from tests.data.picture_files import picture

CAPTIONS = ["a cat", "", "two small dogs in the snow, seen from above", "x" * 500, "Kätzchen \U0001f408"]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def scorer(request: pytest.FixtureRequest) -> ClipScorer:
    folder: Path = request.getfixturevalue(f"{request.param}_folder")
    return ClipScorer.from_pretrained(folder, device="cpu")


class CountingScorer:
    """Scores a pair by its picture's mean and caption's length, and keeps what it was asked."""

    def __init__(self, fail_after: int | None = None, weights_hash: str = "abc") -> None:
        self.captions: list[str] = []
        self.batches: list[int] = []
        self.fail_after = fail_after
        self.weights_hash = weights_hash

    def prepare(self, image: Image.Image) -> float:
        if image.size == (1, 1):
            raise ValueError("too\nsmall")
        return float(np.asarray(image).mean())

    def score_prepared(self, prepared: Sequence[float], captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        if self.fail_after is not None and len(self.batches) >= self.fail_after:
            raise KeyboardInterrupt
        self.captions += captions
        self.batches.append(len(captions))
        lengths = [np.nan if text == "nan" else len(text) for text in captions]
        scores = np.array(prepared) / 1000 + np.array(lengths) / 100
        return scores.astype(np.float32), np.array([len(text) > 10 for text in captions])

    def describe(self) -> dict[str, str]:
        return {"name": "counting", "class": "CountingScorer", "weights_hash": self.weights_hash, "dtype": "float32"}


def pairs_of(count: int, bad: Sequence[BadRecord] = (), source_hash: str = "0" * 64) -> ReadResult[ImageTextPair]:
    pairs = [ImageTextPair(f"p{number}", f"{number % 6}.png", f"caption {number}") for number in range(count)]
    return ReadResult(pairs, list(bad), "pairs.json", source_hash)


def run(pairs: ReadResult[ImageTextPair], images: Path, scorer: Any, output: Path, **sizes: int) -> ScoreSummary:
    return score_pairs(pairs, images, scorer, output, progress=False, workers=2, **({"batch_size": 4} | sizes))


# The scorer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_scores_are_those_of_the_model_itself(kind: str, request: pytest.FixtureRequest) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    folder = request.getfixturevalue(f"{kind}_folder")
    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    expected = []
    for seed, caption in enumerate(CAPTIONS):
        ids = [*tokenizer(caption, add_special_tokens=False).input_ids[: TEXT_LIMIT - 1], tokenizer.eos_token_id]
        if kind == "siglip":
            ids += [tokenizer.pad_token_id] * (TEXT_LIMIT - len(ids))
        pixels = image_processor(images=picture(seed), return_tensors="pt").pixel_values
        with torch.no_grad():
            output = model(input_ids=torch.tensor([ids]), pixel_values=pixels)
        cosine = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds)
        expected.append(cosine.item())
    scorer = ClipScorer.from_pretrained(folder, device="cpu")
    scores, truncated = scorer.score([picture(seed) for seed in range(len(CAPTIONS))], CAPTIONS)
    assert scores.dtype == np.float32 and truncated.dtype == bool
    assert scores == pytest.approx(expected, abs=1e-5)
    assert np.std(scores) > 1e-3
    assert truncated.tolist() == [False, False, True, True, False]


def test_a_batch_equals_its_pairs_one_by_one(scorer: ClipScorer) -> None:
    sizes = [(40, 30), (30, 40), (100, 20), (3, 1), (1, 3)]
    pictures = [picture(seed, size) for seed, size in enumerate(sizes)]
    scores, truncated = scorer.score(pictures, CAPTIONS)
    for place, (image, caption) in enumerate(zip(pictures, CAPTIONS, strict=True)):
        score, cut = scorer.score([image], [caption])
        assert score[0] == pytest.approx(scores[place], abs=1e-6)
        assert cut[0] == truncated[place]


def test_only_captions_beyond_the_limit_are_flagged(scorer: ClipScorer) -> None:
    fits, cut = "x" * (TEXT_LIMIT - 1), "x" * TEXT_LIMIT  # one place is the end token's
    scores, truncated = scorer.score([picture(0)] * 3, [fits, cut, cut * 9])
    assert truncated.tolist() == [False, True, True]
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-6)  # what is left of them is the same, end token included


def test_no_pairs_give_no_scores_and_unequal_counts_are_an_error(scorer: ClipScorer) -> None:
    scores, truncated = scorer.score([], [])
    assert scores.shape == truncated.shape == (0,)
    with pytest.raises(ValueError, match="got 2 images and 1 captions"):
        scorer.score([picture(0), picture(1)], ["x"])


def test_bfloat16_scores_are_close(clip_folder: Path) -> None:
    import torch

    pictures = [picture(seed) for seed in range(len(CAPTIONS))]
    exact, _ = ClipScorer.from_pretrained(clip_folder, "cpu").score(pictures, CAPTIONS)
    half = ClipScorer.from_pretrained(clip_folder, "cpu", torch.bfloat16)
    assert half.describe()["dtype"] == "bfloat16"
    scores, _ = half.score(pictures, CAPTIONS)
    assert scores.dtype == np.float32 and scores == pytest.approx(exact, abs=0.03)


def test_the_weights_hash_depends_on_the_files_and_not_on_their_place(clip_folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(clip_folder, tmp_path / "copy")
    original = ClipScorer.from_pretrained(clip_folder).weights_hash
    assert len(original) == 64 and ClipScorer.from_pretrained(copy).weights_hash == original
    config = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps(config | {"do_center_crop": False}))
    assert ClipScorer.from_pretrained(copy).weights_hash != original


def test_a_folder_that_is_no_scorer_is_refused(tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    with pytest.raises(FileNotFoundError, match=r"nowhere: expected the folder of a CLIP-like checkpoint"):
        ClipScorer.from_pretrained(tmp_path / "nowhere")
    config = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    CLIPVisionModel(config).save_pretrained(tmp_path / "vision")
    with pytest.raises(ValueError, match="holds a CLIPVisionModel, which has no text tower"):
        ClipScorer.from_pretrained(tmp_path / "vision")


def test_broken_weights_give_error_rows(clip_folder: Path, images: Path, tmp_path: Path) -> None:
    scorer = ClipScorer.from_pretrained(clip_folder, "cpu")
    for parameter in scorer._model.text_model.parameters():
        parameter.data.fill_(float("nan"))
    summary = run(pairs_of(3), images, scorer, tmp_path)
    assert (summary.scored, summary.failed) == (0, 3)
    assert read_scores(tmp_path)["error"].to_pylist() == ["the scorer gave nan: are its weights in order?"] * 3


# The folder ---------------------------------------------------------------------------------------------------------


def test_shards_hold_the_scorers_scores_in_order(scorer: ClipScorer, images: Path, tmp_path: Path) -> None:
    pairs = pairs_of(11)
    summary = run(pairs, images, scorer, tmp_path, shard_size=4, batch_size=3)
    assert (summary.scored, summary.failed, summary.shards, summary.resumed_shards) == (11, 0, 3, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json",
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
    ]
    table = read_scores(tmp_path)
    assert table.schema.equals(SCHEMA)
    assert table["id"].to_pylist() == [pair.id for pair in pairs.records]
    assert table["image"].to_pylist() == [pair.image for pair in pairs.records]
    pictures = [load_image(images / pair.image) for pair in pairs.records]
    scores, _ = scorer.score(pictures, [pair.caption for pair in pairs.records])
    assert table["clip_score"].to_pylist() == pytest.approx(scores.tolist(), abs=1e-5)
    assert table["error"].null_count == 11
    manifest = read_manifest(tmp_path)
    assert manifest["scorer"] == scorer.describe() and manifest["scorer"]["name"].startswith("tiny-")
    assert (manifest["inputs"]["pairs_hash"], manifest["inputs"]["shard_size"]) == (pairs.source_hash, 4)
    assert (manifest["scored"], manifest["failed"], manifest["truncated"]) == (11, 0, 0)
    assert set(manifest["versions"]) == {"aligngpt", "python", "torch", "transformers"}


def test_bad_records_stand_among_the_good_ones(images: Path, tmp_path: Path) -> None:
    bad = [
        BadRecord("pairs.json", None, 0, "first", "no.png", "no such file"),
        BadRecord("pairs.json", None, 2, None, "0.png", "no id"),
        BadRecord("pairs.json", None, 4, "last", None, "no conversations"),
        BadRecord("pairs.json", None, None, "somewhere", None, "lost"),
    ]
    pairs = pairs_of(2, bad)
    pairs.records[1] = ImageTextPair("p1", "truncated.jpg", "x")
    summary = run(pairs, images, CountingScorer(), tmp_path, shard_size=2)
    table = read_scores(tmp_path)
    assert table["id"].to_pylist() == ["first", "p0", "p1", "last", "somewhere"]
    assert table["image"].to_pylist() == ["no.png", "0.png", "truncated.jpg", None, None]
    assert [score is not None for score in table["clip_score"].to_pylist()] == [False, True, False, False, False]
    errors = table["error"].to_pylist()
    assert errors[2].startswith("truncated or damaged JPEG")
    assert [errors[place] for place in (0, 1, 3, 4)] == ["no such file", None, "no conversations", "lost"]
    assert (summary.scored, summary.failed) == (1, 5)
    assert summary.bad == ("pairs.json: record 2, image 0.png: no id",)
    assert read_manifest(tmp_path)["bad"] == list(summary.bad)


def test_pictures_and_scores_that_fail_spare_their_neighbours(images: Path, tmp_path: Path) -> None:
    picture(0, (1, 1)).save(tmp_path / "dot.png")
    picture(0).save(tmp_path / "0.png")
    captions = [("dot.png", "x"), ("0.png", "a long caption"), ("gone.png", "x"), ("0.png", "nan"), ("0.png", "ok")]
    records = [ImageTextPair(f"p{place}", image, text) for place, (image, text) in enumerate(captions)]
    scorer = CountingScorer()
    summary = run(ReadResult(records, [], "pairs.json", "0"), tmp_path, scorer, tmp_path / "out", batch_size=5)
    table = read_scores(tmp_path / "out")
    assert scorer.captions == ["a long caption", "nan", "ok"]
    mean = np.asarray(picture(0)).mean() / 1000
    assert table["clip_score"].to_pylist() == [None, pytest.approx(mean + 0.14), None, None, pytest.approx(mean + 0.02)]
    assert table["text_truncated"].to_pylist() == [False, True, False, False, False]
    assert table["error"].to_pylist() == [
        "refused by the image processor: too small",
        None,
        "no such file",
        "the scorer gave nan: are its weights in order?",
        None,
    ]
    assert (summary.scored, summary.failed, summary.truncated) == (2, 3, 1)


def test_an_interrupted_run_goes_on_where_it_stopped(images: Path, tmp_path: Path) -> None:
    run(pairs_of(20), images, CountingScorer(), tmp_path / "whole", shard_size=8)
    cut_off = CountingScorer(fail_after=3)  # the second batch of the second shard
    with pytest.raises(KeyboardInterrupt):
        run(pairs_of(20), images, cut_off, tmp_path / "parts", shard_size=8)
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["manifest.json", "part-00000.parquet"]
    with pytest.raises(ValueError, match="cut off before its end"):
        read_scores(tmp_path / "parts")
    rest = CountingScorer()
    summary = run(pairs_of(20), images, rest, tmp_path / "parts", shard_size=8)
    assert rest.captions == [f"caption {number}" for number in range(8, 20)]
    assert (summary.scored, summary.shards, summary.resumed_shards) == (20, 3, 1)
    assert read_scores(tmp_path / "parts").equals(read_scores(tmp_path / "whole"))
    assert read_manifest(tmp_path / "parts")["scored"] == 20


def test_a_finished_run_is_not_repeated(images: Path, tmp_path: Path) -> None:
    run(pairs_of(20), images, CountingScorer(), tmp_path, shard_size=8)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = CountingScorer()
    summary = run(pairs_of(20), images, again, tmp_path, shard_size=8)
    assert again.captions == [] and (summary.scored, summary.resumed_shards) == (20, 3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "part-00001.parquet").unlink()
    mend = CountingScorer()
    run(pairs_of(20), images, mend, tmp_path, shard_size=8)
    assert len(mend.captions) == 8
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")}.items() <= before.items()


def test_scores_of_another_input_are_refused(images: Path, tmp_path: Path) -> None:
    run(pairs_of(8), images, CountingScorer(), tmp_path / "out", shard_size=4)
    other_images = tmp_path / "images"
    other_images.mkdir()
    for number in range(6):
        picture(number, (50, 50)).save(other_images / f"{number}.png")
    for differing, pairs, folder, weights_hash, shard_size in [
        ("pairs_hash", pairs_of(8, source_hash="1" * 64), images, "abc", 4),
        ("images_hash", pairs_of(8), other_images, "abc", 4),
        ("scorer_weights_hash", pairs_of(8), images, "def", 4),
        ("shard_size", pairs_of(8), images, "abc", 3),
    ]:
        scorer = CountingScorer(weights_hash=weights_hash)
        with pytest.raises(ValueError, match=rf"another input \({differing} differ\): give another output folder"):
            run(pairs, folder, scorer, tmp_path / "out", shard_size=shard_size)
        assert scorer.captions == []


def test_shards_that_cannot_be_ours_are_refused(images: Path, tmp_path: Path) -> None:
    run(pairs_of(8), images, CountingScorer(), tmp_path, shard_size=4)
    first, second = tmp_path / "part-00000.parquet", tmp_path / "part-00001.parquet"
    second.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"part-00001\.parquet does not hold the 4 pairs expected there"):
        run(pairs_of(8), images, CountingScorer(), tmp_path, shard_size=4)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds shards but no manifest\.json"):
        run(pairs_of(8), images, CountingScorer(), tmp_path, shard_size=4)
    with pytest.raises(FileNotFoundError, match="expected a folder written by `aligngpt score`"):
        read_scores(tmp_path)


def test_impossible_arguments_are_refused(images: Path, tmp_path: Path) -> None:
    for sizes in ({"batch_size": 0}, {"shard_size": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            run(pairs_of(8), images, CountingScorer(), tmp_path, **sizes)
    with pytest.raises(ValueError, match="has 0 records and none of them can be used: is this the right file"):
        run(pairs_of(0), images, CountingScorer(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_batches_and_shards_do_not_change_the_scores(images: Path, tmp_path: Path) -> None:
    tables = []
    for place, (batch_size, shard_size) in enumerate([(1, 100), (7, 5), (64, 100)]):
        output = tmp_path / str(place)
        run(pairs_of(13), images, CountingScorer(), output, batch_size=batch_size, shard_size=shard_size)
        tables.append(read_scores(output).combine_chunks())
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])


def test_no_progress_bar_without_a_terminal(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    score_pairs(pairs_of(8), images, CountingScorer(), tmp_path, progress=True)
    assert capfd.readouterr() == ("", "")


def test_a_progress_bar_counts_pairs_on_a_terminal(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    score_pairs(pairs_of(8), images, CountingScorer(), tmp_path, progress=True)
    captured = capsys.readouterr()
    assert "8/8" in captured.err and captured.out == ""


def test_broken_photos_become_error_rows(photos: Path, clip_folder: Path, tmp_path: Path) -> None:
    known = json.loads((photos / "broken" / "broken.json").read_text())
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a picture"}]
    records = [{"id": entry["image"], "image": entry["image"], "conversations": turns} for entry in known]
    (tmp_path / "pairs.json").write_text(json.dumps(records))
    pairs = read_pairs(tmp_path / "pairs.json", photos / "broken")
    run(pairs, photos / "broken", ClipScorer.from_pretrained(clip_folder, "cpu"), tmp_path / "scores")
    table = pq.read_table(tmp_path / "scores" / "part-00000.parquet")
    assert table["id"].to_pylist() == [entry["image"] for entry in known]
    assert [error is None for error in table["error"].to_pylist()] == [entry["readable"] for entry in known]
    with pytest.raises(BadImage):
        load_image(photos / "broken" / "truncated.jpg")
