"""CLIP scores: how well the text of a pair fits its image, s = cos(E_image, E_text).

`score_pairs` writes a folder that can be cut off and continued:

    part-00000.parquet ...   id, image, clip_score, text_truncated, error: one row per pair, in the order of the input
    manifest.json            what was scored, by which weights, with what result

Torch is imported when a `ClipScorer` is made, so that reading scores stays quick.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aligngpt.artifacts import atomic_path, hash_folder, read_json, versions, write_json
from aligngpt.data.images import BadImage, load_image
from aligngpt.data.pairs import BadRecord, ImageTextPair, ReadResult

if TYPE_CHECKING:
    import torch
    from PIL import Image

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.string()),
        pa.field("clip_score", pa.float32()),
        pa.field("text_truncated", pa.bool_(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
MANIFEST = "manifest.json"

_IMAGES_IN_FINGERPRINT = 256
_TOKENIZER_FILES = ("*.json", "*.txt", "*.model")


class Scorer(Protocol):
    """What `score_pairs` asks of a scorer; `ClipScorer` is one."""

    def prepare(self, image: Image.Image) -> Any:
        """Turn a picture into what `score_prepared` takes; called from several threads at once."""

    def score_prepared(self, prepared: Sequence[Any], captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 (n,) and whether each caption was cut, bool (n,)."""

    def describe(self) -> dict[str, str]:
        """What the scores depend on: class, weights_hash, dtype, and the name for people to read."""


class ClipScorer:
    """Cosine of image and text embedding by any CLIP-like model: CLIP, SigLIP, SigLIP 2 and their kin."""

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, folder: Path) -> None:
        """Use `from_pretrained`; the parts are those of one checkpoint folder."""
        self.folder = folder
        self._model = model
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        self._text_limit: int = model.config.text_config.max_position_embeddings
        # SigLIP's text tower reads its padding: it was trained on texts filled up to the limit, without a mask.
        self._reads_padding = model.config.model_type.startswith("siglip")
        names = inspect.signature(model.get_text_features).parameters.keys()
        self._text_inputs = names - {"attention_mask"} if self._reads_padding else names

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> ClipScorer:
        """Load a checkpoint folder with model, tokenizer and image processor.

        Args:
            folder: A local folder; nothing is looked up elsewhere.
            device: Where the model runs; a GPU if there is one, else the CPU.
            dtype: Type of the weights, float32 unless given.

        Raises:
            FileNotFoundError: If the folder or its `config.json` does not exist.
            ValueError: If the model does not embed both images and texts.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder}: expected the folder of a CLIP-like checkpoint, found no config.json there"
            )
        import torch
        from transformers import AutoModel, AutoTokenizer

        # Release 5.17 gives `transformers.AutoImageProcessor` only beside torchvision, though the class needs none.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=dtype or torch.float32)
        for tower, method in (("text", "get_text_features"), ("image", "get_image_features")):
            if not hasattr(model, method):
                raise ValueError(
                    f"{folder} holds a {type(model).__name__}, which has no {tower} tower to score pairs with: "
                    "give the folder of a whole CLIP or SigLIP model"
                )
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        image_processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
        return cls(model.to(device).eval(), tokenizer, image_processor, folder)

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over the files scores depend on: weights, configuration, tokenizer and image processor."""
        weights = "*.safetensors" if any(self.folder.glob("*.safetensors")) else "*.bin"
        return hash_folder(self.folder, (weights, *_TOKENIZER_FILES))

    def describe(self) -> dict[str, str]:
        """The scorer as manifests name it: name, class, weights_hash and dtype."""
        return {
            "name": self.folder.resolve().name,
            "class": type(self._model).__name__,
            "weights_hash": self.weights_hash,
            "dtype": str(self._model.dtype).removeprefix("torch."),
        }

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Score each image with the caption at the same place.

        Args:
            images: n RGB pictures of any size.
            captions: n texts. Those longer than the text tower's limit are cut, the end token kept.

        Returns:
            Scores, float32 (n,) in [-1, 1], and whether the caption was cut, bool (n,).

        Raises:
            ValueError: If there are not as many images as captions.
        """
        return self.score_prepared([self.prepare(image) for image in images], captions)

    def prepare(self, image: Image.Image) -> dict[str, torch.Tensor]:
        """The image processor's tensors for one picture, each (1, ...): small, whatever the picture's size."""
        return dict(self._image_processor(images=[image], return_tensors="pt"))

    def score_prepared(
        self, prepared: Sequence[Mapping[str, torch.Tensor]], captions: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `score`, for pictures that went through `prepare`."""
        import torch

        if len(prepared) != len(captions):
            raise ValueError(f"expected one caption per image, got {len(prepared)} images and {len(captions)} captions")
        if not captions:
            return np.zeros(0, np.float32), np.zeros(0, bool)
        images = {name: torch.cat([one[name] for one in prepared]) for name in prepared[0]}
        texts, truncated = self._tokenize(captions)
        with torch.inference_mode():
            image_features = self._embed(self._model.get_image_features, images)
            text_features = self._embed(self._model.get_text_features, texts)
            scores = (image_features * text_features).sum(dim=-1).clamp(-1, 1)
        return scores.cpu().numpy(), truncated

    def _tokenize(self, captions: Sequence[str]) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        """Token tensors (n, length), length at most the limit, and which captions were longer."""
        limit = self._text_limit
        # One token more than fits is enough to see that a caption is too long, and no warning is logged.
        lengths = [len(ids) for ids in self._tokenizer(list(captions), truncation=True, max_length=limit + 1).input_ids]
        inputs = self._tokenizer(
            list(captions),
            truncation=True,
            max_length=limit,
            padding="max_length" if self._reads_padding else "longest",
            return_tensors="pt",
        )
        texts = {name: tensor for name, tensor in inputs.items() if name in self._text_inputs}
        return texts, np.array(lengths) > limit

    def _embed(self, tower: Callable[..., Any], inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Unit vectors (n, dim) in float32."""
        model = self._model
        moved = {
            name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }
        features = tower(**moved)
        pooled = getattr(features, "pooler_output", features).float()  # a tensor in older releases of transformers
        return pooled / pooled.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class ScoreSummary:
    """What a scoring run did.

    Attributes:
        scored: Pairs with a score.
        failed: Rows with an error instead, plus bad records that have no id and hence no row.
        truncated: Captions that were cut at the text tower's limit.
        seconds: Time of this run.
        shards: Number of shards in the folder.
        resumed_shards: How many of them an earlier run had finished.
        bad: Bad records without id, as text; they are in the manifest only.
    """

    scored: int
    failed: int
    truncated: int
    seconds: float
    shards: int
    resumed_shards: int
    bad: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One row to come: a pair to be scored, or a bad record with its error and no caption."""

    id: str
    image: str | None
    caption: str
    error: str | None = None


def score_pairs(
    pairs: ReadResult[ImageTextPair],
    image_folder: str | os.PathLike[str],
    scorer: Scorer,
    output: str | os.PathLike[str],
    *,
    batch_size: int = 64,
    shard_size: int = 10_000,
    workers: int | None = None,
    progress: bool = True,
) -> ScoreSummary:
    """Score every pair and write the folder described at the top of this module.

    A pair whose picture cannot be read, or whose score is no number, becomes a row with an `error` and no score. If
    the run is cut off, the same call goes on after the last finished shard.

    Args:
        pairs: Result of `read_pairs`; its bad records become error rows.
        image_folder: What the pairs' image paths are relative to.
        scorer: Usually a `ClipScorer`.
        output: The folder to write or to continue.
        batch_size: Pairs scored at once; the next batch is decoded meanwhile.
        shard_size: Rows per file, and the most that an interruption can cost.
        workers: Threads that decode; one per CPU by default.
        progress: Whether to show a progress bar with the time left, on stderr and only if that is a terminal.

    Raises:
        ValueError: If there is no good record, a size is below 1, or `output` holds scores of another input.
    """
    if batch_size < 1 or shard_size < 1:
        raise ValueError(f"batch_size and shard_size must be at least 1, got {batch_size} and {shard_size}")
    pairs.raise_if_empty()
    started = time.monotonic()
    folder, images = Path(output), Path(image_folder)
    rows, nameless = _rows(pairs)
    inputs = _inputs(pairs, rows, images, scorer, shard_size)
    header = {"inputs": inputs, "scorer": scorer.describe(), "source": pairs.source, "versions": versions()}
    was_complete = _claim(folder, header)
    shards = [rows[start : start + shard_size] for start in range(0, len(rows), shard_size)]
    counts = {"scored": 0, "failed": len(nameless), "truncated": 0, "resumed_shards": 0}
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool, _progress_bar(len(rows), progress) as advance:
        for number, shard in enumerate(shards):
            part = _part(folder, number)
            table = _finished(part, shard)
            if table is None:
                table = score_shard(shard, images, scorer, pool, batch_size, advance)
                with atomic_path(part) as temporary:
                    pq.write_table(table, temporary)
            else:
                counts["resumed_shards"] += 1
                advance(len(shard))
            _count(table, counts)
    bad = tuple(str(record) for record in nameless)
    summary = ScoreSummary(**counts, shards=len(shards), seconds=time.monotonic() - started, bad=bad)
    if not was_complete or summary.resumed_shards < summary.shards:
        write_json(folder / MANIFEST, header | {"complete": True} | asdict(summary))
    return summary


def score_shard(
    rows: Sequence[Row],
    image_folder: Path,
    scorer: Scorer,
    pool: ThreadPoolExecutor,
    batch_size: int,
    advance: Callable[[int], object] = lambda count: None,
) -> pa.Table:
    """Score one shard; needs and changes nothing but its arguments, so shards can run anywhere.

    Args:
        rows: The shard's rows, in order.
        image_folder: What their image paths are relative to.
        scorer: As in `score_pairs`.
        pool: Threads that decode, one batch ahead of the scorer.
        batch_size: Rows decoded at once; those with an error are not scored.
        advance: Told after each batch how many rows are done.

    Returns:
        A table of `SCHEMA`, one row per input row, in order.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for batch, loaded in _loaded_batches(rows, image_folder, scorer, pool, batch_size):
        errors = [item.error for item in loaded]
        good = [place for place, error in enumerate(errors) if error is None]
        scores: list[float | None] = [None] * len(batch)
        truncated = [False] * len(batch)
        if good:
            prepared, captions = [loaded[place].prepared for place in good], [batch[place].caption for place in good]
            for place, score, cut in zip(good, *scorer.score_prepared(prepared, captions), strict=True):
                truncated[place] = bool(cut)
                if np.isfinite(score):
                    scores[place] = float(score)
                else:
                    errors[place] = f"the scorer gave {score}: are its weights in order?"
        columns["id"] += [row.id for row in batch]
        columns["image"] += [row.image for row in batch]
        columns["clip_score"] += scores
        columns["text_truncated"] += truncated
        columns["error"] += errors
        advance(len(batch))
    return pa.table(columns, schema=SCHEMA)


def read_scores(folder: str | os.PathLike[str]) -> pa.Table:
    """Read a finished folder of scores as one table: id, image, clip_score, text_truncated, error, in input order.

    Raises:
        FileNotFoundError: If the folder, its manifest or one of its shards is missing.
        ValueError: If the run that writes it has not finished.
    """
    manifest = read_manifest(folder)
    return pa.concat_tables([_read_part(_part(Path(folder), number)) for number in range(manifest["shards"])])


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the manifest of a finished folder of scores. Errors: `read_scores`."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: expected a folder written by `aligngpt score`, found no {MANIFEST} there")
    manifest: dict[str, Any] = read_json(path)
    if not manifest.get("complete"):
        raise ValueError(f"{folder}: scoring was cut off before its end; run the same `aligngpt score` again to finish")
    return manifest


# Rows, and the folder they go to ------------------------------------------------------------------------------------


def _rows(pairs: ReadResult[ImageTextPair]) -> tuple[list[Row], list[BadRecord]]:
    """Rows in the file's order, bad records among them, and the bad records that have no id to stand under."""
    bad_at = {record.index: record for record in pairs.bad if record.index is not None}
    good = iter(pairs.records)
    ordered: list[ImageTextPair | BadRecord] = [
        bad_at[index] if index in bad_at else next(good) for index in range(len(pairs.records) + len(bad_at))
    ]
    ordered += [record for record in pairs.bad if record.index is None]
    rows, nameless = [], []
    for record in ordered:
        if isinstance(record, ImageTextPair):
            rows.append(Row(record.id, record.image, record.caption))
        elif record.id is None:
            nameless.append(record)
        else:
            rows.append(Row(record.id, record.image, "", record.reason))
    return rows, nameless


def _inputs(
    pairs: ReadResult[ImageTextPair], rows: Sequence[Row], folder: Path, scorer: Scorer, shard_size: int
) -> dict[str, Any]:
    """All that a finished shard depends on: two runs with the same inputs may share a folder."""
    sample = rows[:: max(1, len(rows) // _IMAGES_IN_FINGERPRINT)]
    sizes = "\n".join(f"{row.image}\0{_size(folder / row.image)}" for row in sample if row.image is not None)
    scorer_inputs = {f"scorer_{key}": value for key, value in scorer.describe().items() if key != "name"}
    return {
        "pairs_hash": pairs.source_hash,
        "images_hash": hashlib.sha256(sizes.encode()).hexdigest(),
        **scorer_inputs,
        "shard_size": shard_size,
    }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1


def _claim(folder: Path, header: dict[str, Any]) -> bool:
    """Begin or continue a folder; whether a run with the same inputs had already finished it."""
    path = folder / MANIFEST
    if path.is_file():
        manifest = read_json(path)
        found, wanted = manifest.get("inputs", {}), header["inputs"]
        differing = [key for key in wanted if found.get(key) != wanted[key]]
        if differing:
            raise ValueError(
                f"{folder} holds scores of another input ({', '.join(differing)} differ): "
                "give another output folder, or delete this one to score anew"
            )
        return bool(manifest.get("complete"))
    if any(folder.glob("part-*.parquet")):
        raise ValueError(f"{folder} holds shards but no {MANIFEST}: give another output folder, or delete this one")
    write_json(path, header | {"complete": False})
    return False


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.parquet"


def _read_part(part: Path) -> pa.Table:
    return pq.read_table(part, schema=SCHEMA, partitioning=None)


def _finished(part: Path, rows: Sequence[Row]) -> pa.Table | None:
    """The shard as an earlier run wrote it, if it did."""
    if not part.is_file():
        return None
    table = _read_part(part)
    if table["id"].to_pylist() != [row.id for row in rows]:
        raise ValueError(f"{part} does not hold the {len(rows)} pairs expected there: delete it to score them again")
    return table


def _count(table: pa.Table, counts: dict[str, int]) -> None:
    failed = table["clip_score"].null_count
    counts["failed"] += failed
    counts["scored"] += len(table) - failed
    counts["truncated"] += sum(table["text_truncated"].to_pylist())


# Decoding ahead -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Loaded:
    """A prepared picture, or the reason why there is none."""

    prepared: Any = None
    error: str | None = None


def _loaded_batches(
    rows: Sequence[Row], folder: Path, scorer: Scorer, pool: ThreadPoolExecutor, batch_size: int
) -> Iterator[tuple[Sequence[Row], list[_Loaded]]]:
    """Batches with their pictures; while one is used, the next is decoded."""

    def submit(batch: Sequence[Row]) -> list[Future[_Loaded]]:
        return [pool.submit(_load, row, folder, scorer) for row in batch]

    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    ahead = submit(batches[0]) if batches else []
    for number, batch in enumerate(batches):
        current, ahead = ahead, submit(batches[number + 1]) if number + 1 < len(batches) else []
        yield batch, [future.result() for future in current]


def _load(row: Row, folder: Path, scorer: Scorer) -> _Loaded:
    if row.error is not None or row.image is None:
        return _Loaded(error=row.error or "no image")
    try:
        return _Loaded(prepared=scorer.prepare(load_image(folder / row.image)))
    except BadImage as error:
        return _Loaded(error=str(error))
    except ValueError as error:
        return _Loaded(error=f"refused by the image processor: {' '.join(str(error).split())}")


@contextmanager
def _progress_bar(total: int, wanted: bool) -> Iterator[Callable[[int], object]]:
    """A function to be told how many pairs are done; shows them only on a terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("scoring", total=total)
        yield lambda count: bar.advance(task, count)
