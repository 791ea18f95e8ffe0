"""A score is the cosine of the model's own two embeddings, whichever model, however long the caption."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aligngpt.curation.scoring.scorers import ClipScorer, ScaleAndCrop, WholeProcessor, compute_cosines, split_processor
from aligngpt.data.images import DecodedImage
from tests.curation.counting import score_images
from tests.fixtures import TEXT_LIMIT
from tests.image_files import make_image

CAPTIONS = ["a cat", "", "two small dogs in the snow, seen from above", "x" * 500, "Kätzchen \U0001f408"]
SIZES = [(40, 30), (30, 40), (100, 20), (3, 2), (1, 3)]
KINDS = ("clip", "siglip", "siglip2", "align")
LIMITS = {kind: TEXT_LIMIT for kind in KINDS} | {"align": 64}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, request: pytest.FixtureRequest) -> Path:
    result: Path = request.getfixturevalue(f"{kind}_folder")
    return result


@pytest.fixture(scope="module")
def scorer(folder: Path) -> ClipScorer:
    return ClipScorer.from_pretrained(folder, device="cpu")


def decoded(image: Image.Image) -> DecodedImage:
    return DecodedImage(image, (0, 0, *image.size), image.size)


def token_ids(tokenizer: Any, text: str, limit: int, filled: bool) -> list[int]:
    """A caption as the model was trained to read it: cut so that the end token fits, and filled up for SigLIP."""
    ids = [*tokenizer(text, add_special_tokens=False).input_ids[: limit - 1], tokenizer.eos_token_id]
    return ids + [tokenizer.pad_token_id] * (limit - len(ids) if filled else 0)


def test_scores_are_those_of_the_model_itself(kind: str, folder: Path, scorer: ClipScorer) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    images = [make_image(seed, size) for seed, size in enumerate(SIZES)]
    expected = []
    for image, caption in zip(images, CAPTIONS, strict=True):
        ids = token_ids(tokenizer, caption, LIMITS[kind], kind.startswith("siglip"))
        with torch.no_grad():
            output = model(input_ids=torch.tensor([ids]), **processor(images=image, return_tensors="pt"))
        expected.append(torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds).item())
    scores, truncated = score_images(scorer, images, CAPTIONS)
    assert scores.dtype == np.float32 and truncated.dtype == bool
    assert scores == pytest.approx(expected, abs=1e-5)
    assert np.std(scores) > 1e-3
    assert truncated.tolist() == [False, False, kind != "align", True, False]


def test_a_batch_equals_its_pairs_one_by_one(scorer: ClipScorer) -> None:
    images = [make_image(seed, size) for seed, size in enumerate(SIZES * 8)]  # more than go through the model at once
    captions = [f"{caption}{index}" for index, caption in enumerate(CAPTIONS * 8)]
    scores, truncated = score_images(scorer, images, captions)
    for index in range(0, 40, 3):
        score, boundary = score_images(scorer, [images[index]], [captions[index]])
        assert score[0] == pytest.approx(scores[index], abs=1e-6)
        assert boundary[0] == truncated[index]


def test_only_captions_beyond_the_limit_are_flagged(kind: str, scorer: ClipScorer) -> None:
    fits, boundary = "x" * (LIMITS[kind] - 1), "x" * LIMITS[kind]  # one place is the end token's
    scores, truncated = score_images(scorer, [make_image(0)] * 3, [fits, boundary, boundary * 9])
    assert truncated.tolist() == [False, True, True]
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-6)  # what is left of them is the same, end token included


def test_chunk_mean_is_the_mean_of_the_pieces(kind: str, folder: Path, scorer: ClipScorer) -> None:
    whole = ClipScorer.from_pretrained(folder, "cpu", long_captions="chunk-mean")
    size = LIMITS[kind] - 1
    long = "".join(chr(ord("a") + index % 23) for index in range(2 * size + 5))
    pieces = [long[:size], long[size : 2 * size], long[2 * size :]]
    vectors = scorer.embed_captions(pieces)[0].numpy()
    mean = vectors.mean(axis=0)
    result, unread = whole.embed_captions(["short", long, "", long[:size]])
    assert result[1].numpy() == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    assert np.abs(result[1].numpy() - vectors[0]).max() > 1e-3
    assert unread.tolist() == [False] * 4
    others = scorer.embed_captions(["short", "", long[:size]])[0].numpy()
    assert result[[0, 2, 3]].numpy() == pytest.approx(others, abs=1e-6)


def test_a_caption_of_100_000_characters_is_read_within_bounds(clip_folder: Path) -> None:
    for policy in ("truncate", "chunk-mean"):
        scorer = ClipScorer.from_pretrained(clip_folder, "cpu", long_captions=policy)
        scores, unread = score_images(scorer, [make_image(0)] * 2, ["a bird " * 15_000, "a bird"])
        assert np.isfinite(scores).all() and unread.tolist() == [True, False]


def test_chunks_are_those_of_any_tokenizer(spiece_folder: Path, clip_folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer, ByT5Tokenizer, CanineTokenizer
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (spiece_folder, clip_folder)]
    assert [tokenizer.is_fast for tokenizer in tokenizers] == [False, True]
    model = AutoModel.from_pretrained(clip_folder)
    processor = AutoImageProcessor.from_pretrained(clip_folder, backend="pil")
    texts = ["a red bird", "", "A dog!", "Kätzchen", "x"]
    for tokenizer in (*tokenizers, ByT5Tokenizer(), CanineTokenizer()):
        tokenizer.model_max_length = 20
        scorer = ClipScorer(model, tokenizer, processor, clip_folder)
        assert scorer._tokenize(texts) == [[ids] for ids in tokenizer(texts)["input_ids"]]
        pieces = scorer._tokenize(["a red bird " * 10])[0]
        longest = tokenizer(["a red bird " * 10], truncation=True, max_length=20)["input_ids"]
        assert [len(piece) for piece in pieces[:-1]] == [20] * (len(pieces) - 1) and pieces[:1] == longest


def test_siglips_own_tokenizer_scores_short_and_long_captions(spiece_folder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(spiece_folder), AutoModel.from_pretrained(spiece_folder).eval()
    captions = ["a red bird", "", "A bird, in the snow.", "a dog " * 15_000]
    for policy in ("truncate", "chunk-mean"):
        scorer = ClipScorer.from_pretrained(spiece_folder, "cpu", long_captions=policy)
        result, unread = scorer.embed_captions(captions)
        assert unread.tolist() == [False, False, False, True]
        ids = tokenizer(captions[:3], padding="max_length", max_length=16, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected = torch.nn.functional.normalize(model.get_text_features(ids).pooler_output)
        assert result[:3].numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_a_text_tower_reads_no_more_than_its_tokenizer_says(altclip_folder: Path) -> None:
    scorer = ClipScorer.from_pretrained(altclip_folder, "cpu")
    scores, unread = score_images(scorer, [make_image(0)] * 3, ["x" * 21, "x" * 22, "x" * 500])
    assert unread.tolist() == [False, True, True] and scores == pytest.approx([scores[0]] * 3, abs=1e-6)


def test_bfloat16_scores_are_close(folder: Path, scorer: ClipScorer) -> None:
    import torch

    images = [make_image(seed) for seed in range(len(CAPTIONS))]
    exact, _ = score_images(scorer, images, CAPTIONS)
    half = ClipScorer.from_pretrained(folder, "cpu", torch.bfloat16)
    assert half.describe()["dtype"] == "bfloat16" and scorer.describe()["dtype"] == "float32"
    scores, _ = score_images(half, images, CAPTIONS)
    assert scores.dtype == np.float32 and scores == pytest.approx(exact, abs=0.03)


def test_the_weights_hash_depends_on_the_files_and_not_on_their_place(clip_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(clip_folder, tmp_path / "copy")
    original = ClipScorer.from_pretrained(clip_folder).weights_hash
    assert len(original) == 64 and ClipScorer.from_pretrained(copy).weights_hash == original
    config = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps(config | {"do_center_crop": False}))
    assert ClipScorer.from_pretrained(copy).weights_hash != original


def test_a_folder_without_a_scorer_is_one_line(clip_folder: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel

    with pytest.raises(FileNotFoundError, match=r"nowhere: no such model folder"):
        ClipScorer.from_pretrained(tmp_path / "nowhere")
    small: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    small["num_attention_heads"] = 2
    CLIPVisionModel(CLIPVisionConfig(**small)).save_pretrained(tmp_path / "vision")
    BertModel(BertConfig(**small)).save_pretrained(tmp_path / "text")
    for name, tower in (("vision", "a CLIPVisionModel, which has no text"), ("text", "a BertModel, which has no text")):
        with pytest.raises(ValueError, match=f"holds {tower} tower"):
            ClipScorer.from_pretrained(tmp_path / name)
    for missing, what in (("tokenizer*", "tokenizer"), ("preprocessor_config.json", "image processor")):
        copy = shutil.copytree(clip_folder, tmp_path / what)
        for path in copy.glob(missing):
            path.unlink()
        with pytest.raises(ValueError, match=f"{what} (is missing|cannot be loaded).*copy its files there") as caught:
            ClipScorer.from_pretrained(copy)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="long_captions must be truncate or chunk-mean, got 'drop'"):
        ClipScorer.from_pretrained(clip_folder, long_captions="drop")  # type: ignore[arg-type]


# Preparation --------------------------------------------------------------------------------------------------------


def test_which_processors_can_be_parted(kind: str, scorer: ClipScorer) -> None:
    kinds = {"clip": ((32,), (32, 32)), "siglip": ((32, 32), None), "align": ((32, 32), None)}
    if kind == "siglip2":
        assert isinstance(scorer.preparation, WholeProcessor)
    else:
        assert scorer.preparation == ScaleAndCrop(kinds[kind][0], 3, kinds[kind][1])
        assert scorer.preparation.at_least == 64


def test_a_split_processor_equals_the_whole_one(kind: str, folder: Path, scorer: ClipScorer) -> None:
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    preparation, arithmetic = split_processor(processor)
    for seed, size in enumerate([*SIZES, (640, 480), (32, 32), (31, 200), (33, 34)]):
        image = make_image(seed, size)
        expected = processor(images=[image], return_tensors="np")
        result = pickle.loads(pickle.dumps(preparation))(decoded(image))
        if arithmetic is not None:
            assert result["pixel_values"].dtype == np.uint8
            result = {"pixel_values": arithmetic[0] * result["pixel_values"] + arithmetic[1]}
        assert result.keys() == expected.keys()
        for name, array in result.items():
            assert np.allclose(array, expected[name], atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"crop_size": {"height": 40, "width": 40}},
        {"size": {"shortest_edge": 32, "longest_edge": 40}, "do_center_crop": False},
        {"do_pad": True, "pad_size": {"height": 64, "width": 64}},
    ],
)
def test_processors_that_do_more_are_used_whole(settings: dict[str, Any]) -> None:
    from transformers import CLIPImageProcessorPil

    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    preparation, arithmetic = split_processor(CLIPImageProcessorPil(**(sizes | settings)))
    assert isinstance(preparation, WholeProcessor) and arithmetic is None


def test_a_fraction_of_a_jpeg_keeps_its_place_in_the_crop() -> None:
    """An image reduced by 4, with a pixel left over on both sides, gives nearly the crop of the whole image."""
    across, down = np.meshgrid(np.linspace(0, 255, 643), np.linspace(0, 255, 477))
    whole = Image.fromarray(np.stack([across, down, (across + down) / 2], axis=-1).astype(np.uint8))
    reduced = whole.reduce(4)
    prepare = ScaleAndCrop((32,), 3, (32, 32))
    part = DecodedImage(reduced, (0, 0, 643 / 4, 477 / 4), whole.size)
    result, expected = (prepare(image)["pixel_values"].astype(int) for image in (part, decoded(whole)))
    assert np.abs(result - expected).max() <= 2


def test_cosines() -> None:
    ones = np.array([[1, 0], [0.6, 0.8], [1, 0]], np.float32)
    others = np.array([[1, 0], [0.8, 0.6], [np.nan, 0]], np.float32)
    assert compute_cosines(ones, others)[:2].tolist() == pytest.approx([1, 0.96]) and np.isnan(
        compute_cosines(ones, others)[2]
    )
