"""Scores in the order of the input, for any number of workers; what is embedded once; resuming interrupted runs."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from aligngpt.curation.scoring import batches as score_batches
from aligngpt.curation.scoring.batches import caption_hash, plan_batches
from aligngpt.curation.scoring.decoding import IMAGES_PER_TASK, Decoder, Encoded, decode_images, perceptual_hash
from aligngpt.curation.scoring.local_backend import SCORE_TOLERANCE, score_source
from aligngpt.curation.scoring.run import ScoreSummary
from aligngpt.curation.scoring.score import score_pairs
from aligngpt.curation.scoring.scorers import ClipScorer
from aligngpt.curation.scoring.store import SCHEMA, read_manifest, read_scores
from aligngpt.data import json_format as json_records
from aligngpt.data.images import DecodedImage, load_image
from aligngpt.data.sources import open_source
from tests.curation.counting import CountingScorer, mean_of, score_images
from tests.image_files import make_image
from tests.source_files import datasets_folder, llava, samples, write_json, write_lines, write_parquet, write_tar


def run(pairs: Path | str, images: Path | None, scorer: Any, output: Path, **settings: Any) -> ScoreSummary:
    scorers = scorer if isinstance(scorer, list) else [scorer]
    settings = {"batch_size": 4, "num_workers": 0, "show_progress": False} | settings
    return score_source(open_source(pairs, images), scorers, output, **settings)


def pairs_of(folder: Path, count: int, **changes: Any) -> Path:
    """Write pairs with the six good images of `images` in turn."""
    records = [llava(number, image=f"{number % 6}.png", **changes) for number in range(count)]
    return write_json(folder, records)


@pytest.fixture
def shards_of_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "SHARD_SIZE", 8)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a folder for inputs, next to the output."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


# What is written ----------------------------------------------------------------------------------------------------


def test_parts_hold_the_scores_in_order(
    clip_folder: Path, images: Path, work: Path, tmp_path: Path, shards_of_8: None
) -> None:
    scorer = ClipScorer.from_pretrained(clip_folder, "cpu")
    summary = run(pairs_of(work, 19), images, scorer, tmp_path / "out", batch_size=3)
    assert (summary.scored, summary.failed, summary.shards, summary.resumed_shards) == (19, 0, 3, 0)
    names = [*(f"part-0000{number}.parquet" for number in range(3)), "run_config.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", *names]
    table = read_scores(tmp_path / "out")
    assert table.schema.equals(SCHEMA)
    captions = [f"cäption {number}" for number in range(19)]
    loaded = [load_image(images / f"{number % 6}.png") for number in range(19)]
    scores, _ = score_images(scorer, loaded, captions)
    assert table["clip_score"].to_pylist() == pytest.approx(scores.tolist(), abs=1e-6) and np.std(scores) > 1e-3
    assert table["id"].to_pylist() == [f"p{number}" for number in range(19)]
    assert table["image"].to_pylist() == [f"{number % 6}.png" for number in range(19)]
    assert table["caption_chars"].to_pylist() == [len(caption) for caption in captions]
    assert table["caption_hash"].to_pylist() == [caption_hash(caption) for caption in captions]
    assert set(zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True)) == {(40, 30)}
    for column in ("image_hash", "image_phash"):
        hashes = table[column].to_pylist()
        assert hashes[:6] * 3 == hashes[:18] and len(set(hashes)) == 6
    manifest = read_manifest(tmp_path / "out")
    assert [info.model_dump() for info in manifest.scorers] == [scorer.describe()] and manifest.shards == 3
    assert manifest.counts.model_dump() == {"scored": 19, "failed": 0, "truncated": 0, "errors": {}}
    assert manifest.inputs.pairs_hash == open_source(work / "pairs.json").fingerprint
    assert set(manifest.versions) == {"aligngpt", "python", "torch", "transformers"}


@pytest.fixture
def five_formats(images: Path, work: Path) -> dict[str, Path]:
    """The same six pairs in each format, in one shard each, but for `two_shards`: a `datasets` folder of two files."""
    numbers = range(6)
    data = [(images / f"{number}.png").read_bytes() for number in numbers]
    ids, captions = [f"p{number}" for number in numbers], [f"cäption {number}" for number in numbers]
    columns = {"id": ids, "image": data, "caption": captions}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(columns | {"image": pa.array([{"bytes": content, "path": None} for content in data], kind)})
    members: dict[str, bytes] = {}
    for name, content, caption in zip(ids, data, captions, strict=True):
        members |= {f"{name}.png": content, f"{name}.txt": caption.encode()}
    return {
        "llava_json": write_json(work, [llava(number) for number in numbers]),
        "json_lines": write_lines(work, [llava(number) for number in numbers]),
        "parquet": write_parquet(work / "a.parquet", columns),
        "datasets": datasets_folder(work / "set", table, files=1),
        "webdataset": write_tar(work / "a.tar", members),
        "two_shards": datasets_folder(work / "two", table, files=2),
    }


def test_equal_batches_give_equal_scores_in_all_formats(
    clip_folder: Path, images: Path, five_formats: dict[str, Path], tmp_path: Path
) -> None:
    scorer = ClipScorer.from_pretrained(clip_folder, "cpu")
    tables = {}
    for name, path in five_formats.items():
        run(path, images if "json" in name else None, scorer, tmp_path / name)
        tables[name] = read_scores(tmp_path / name).drop_columns("image").combine_chunks()
    expected, other = tables["llava_json"], tables.pop("two_shards")
    assert expected.num_rows == 6 and expected["error"].null_count == 6
    assert [name for name, table in tables.items() if not table.equals(expected)] == []
    assert other.drop_columns("clip_score").equals(expected.drop_columns("clip_score"))
    assert_close_scores(other, expected)


def test_other_batches_give_equal_scores_up_to_rounding(
    clip_folder: Path, images: Path, work: Path, tmp_path: Path
) -> None:
    scorer, pairs = ClipScorer.from_pretrained(clip_folder, "cpu"), pairs_of(work, 21)
    tables = []
    for batch_size in (1, 3, 4, 64):
        run(pairs, images, scorer, tmp_path / str(batch_size), batch_size=batch_size)
        tables.append(read_scores(tmp_path / str(batch_size)))
    for table in tables[1:]:
        assert_close_scores(table, tables[0])


def assert_close_scores(actual: pa.Table, expected: pa.Table) -> None:
    """Check the guarantee for batches composed differently."""
    differences = np.abs(actual["clip_score"].to_numpy() - expected["clip_score"].to_numpy())
    assert differences.max() <= SCORE_TOLERANCE


def test_batches_and_processes_do_not_change_the_scores(
    images: Path, work: Path, tmp_path: Path, shards_of_8: None
) -> None:
    pairs, written = pairs_of(work, 21), []
    for position, (batch_size, workers) in enumerate([(1, 0), (7, 0), (64, 0), (4, 2), (64, 1)]):
        run(pairs, images, CountingScorer(), tmp_path / str(position), batch_size=batch_size, num_workers=workers)
        written.append(contents(tmp_path / str(position)))
    assert len(written[0]) == 3 and all(one == written[0] for one in written[1:])


def test_several_scorers_share_one_pass(
    clip_folder: Path, siglip_folder: Path, images: Path, work: Path, tmp_path: Path
) -> None:
    pairs = pairs_of(work, 12)
    scorers = [ClipScorer.from_pretrained(folder, "cpu") for folder in (clip_folder, siglip_folder)]
    summary = run(pairs, images, scorers, tmp_path / "both", num_workers=1)
    both = read_scores(tmp_path / "both")
    for scorer, column in zip(scorers, ("clip_score", "clip_score_tiny-siglip"), strict=True):
        run(pairs, images, scorer, tmp_path / column)
        assert both[column].to_pylist() == read_scores(tmp_path / column)["clip_score"].to_pylist()
    (agreement,) = summary.agreement
    assert agreement.scorers == ("tiny-clip", "tiny-siglip") and agreement.pairs == 12
    manifest = read_manifest(tmp_path / "both")
    assert manifest.agreement == [agreement]
    assert agreement.spearman is not None and -1 <= agreement.spearman <= 1
    assert [scorer.name for scorer in manifest.scorers] == ["tiny-clip", "tiny-siglip"]


def test_a_pass_of_two_scorers_decodes_each_image_once(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []

    def stop(data: bytes, name: str, at_least: int | None) -> None:
        seen.append(at_least)
        raise ZeroDivisionError

    monkeypatch.setattr("aligngpt.curation.scoring.decoding.decode_image", stop)
    small, large, whole = (lambda image: 0 for _ in range(3))
    small.at_least, large.at_least = 64, 96  # type: ignore[attr-defined]
    for preparations in ([small, large], [large, whole]):
        with pytest.raises(ZeroDivisionError):
            Decoder(preparations)[[Encoded("0.png", folder=str(images))]]
    assert seen == [96, None]  # as large as the most demanding scorer needs it


# What is embedded once ----------------------------------------------------------------------------------------------


def test_repeated_images_and_captions_are_embedded_once(
    images: Path, work: Path, tmp_path: Path, shards_of_8: None
) -> None:
    """Five captions over one image, then a second shard that may not know of the first."""
    records = [llava(number, image=f"{number // 5}.png") for number in range(16)]
    for number in (6, 7, 15):
        records[number]["conversations"] = records[5]["conversations"]
    scorer = CountingScorer()
    run(write_json(work, records), images, scorer, tmp_path / "out", batch_size=2)
    assert sum(scorer.images) == 2 + 3  # 0 and 1, then 1, 2 and 3
    expected = [0, 1, 2, 3, 4, 5, *range(8, 15), 5]
    assert sorted(scorer.captions) == sorted(f"cäption {number}" for number in expected)
    scores = read_scores(tmp_path / "out")["clip_score"].to_pylist()
    means = [mean_of(DecodedImage(make_image(seed), (0, 0, 40, 30), (40, 30))) for seed in range(4)]
    lengths = [9 if number < 10 or number == 15 else 10 for number in range(16)]
    assert scores == pytest.approx([np.cos(means[n // 5] - lengths[n] / 100) for n in range(16)], abs=1e-6)


def test_the_number_of_cached_images_is_limited(
    images: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = {}
    for size in (2, 6):
        monkeypatch.setattr(score_batches, "CACHE_SIZE", size)
        scorer = CountingScorer()
        run(pairs_of(work, 12), images, scorer, tmp_path / str(size))
        embedded[size] = sum(scorer.images)
    assert embedded == {2: 12, 6: 6}
    assert contents(tmp_path / "2") == contents(tmp_path / "6")


def test_the_same_bytes_in_a_table_are_one_image(images: Path, work: Path, tmp_path: Path) -> None:
    data = [(images / f"{number // 5}.png").read_bytes() for number in range(10)]
    scorer = CountingScorer()
    run(
        write_parquet(work / "a.parquet", {"image": data, "caption": list("abcdefghij")}),
        None,
        scorer,
        tmp_path / "out",
    )
    assert sum(scorer.images) == 2 and len(scorer.captions) == 10


def test_captions_of_images_that_cannot_be_used_are_not_embedded(images: Path, work: Path, tmp_path: Path) -> None:
    records = [llava(0, image="gone.png"), llava(1), llava(0, id="again")]
    scorer = CountingScorer()
    run(write_json(work, records), images, scorer, tmp_path / "out", batch_size=1)
    assert scorer.captions == ["cäption 1", "cäption 0"]
    assert read_scores(tmp_path / "out")["clip_score"].null_count == 1


def test_a_batch_is_full_by_images_rows_or_bytes(images: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_batches, "BYTES_PER_BATCH", 1500)
    same = write_json(work, [llava(number, image="0.png") for number in range(40)])
    shards = open_source(same, images).shards()
    assert [(len(batch.rows), len(batch.images), batch.last) for batch in plan_batches(shards, images, 2)] == [
        (16, 1, False),
        (16, 0, False),
        (8, 0, True),
    ]
    tar = open_source(write_tar(work / "a.tar", samples(range(7)))).shards()  # images of 700 bytes
    assert [len(batch.images) for batch in plan_batches(tar, None, 100)] == [3, 3, 1]


# Memory -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_tasks_are_read_only_as_far_ahead_as_asked(images: Path, workers: int) -> None:
    read = 0

    def tasks() -> Iterator[list[Encoded]]:
        nonlocal read
        for number in range(60):
            read += 1
            yield [Encoded(f"{number % 6}.png", folder=str(images))] * IMAGES_PER_TASK

    done = 0
    for results in decode_images(tasks(), Decoder([mean_of]), workers, 4 * IMAGES_PER_TASK, True):
        done += 1
        assert len(results) == IMAGES_PER_TASK and results[0].error is None
        assert read - done <= 4 + 1
    assert done == read == 60


def test_large_images_are_sent_in_smaller_tasks(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_batches, "BYTES_PER_TASK", 1500)
    (batch,) = plan_batches(open_source(write_tar(work / "a.tar", samples(range(10)))).shards(), None, 64)
    assert [len(task) for task in score_batches._divide_images(batch.images.values())] == [3, 3, 3, 1]
    monkeypatch.setattr(score_batches, "BYTES_PER_TASK", 1 << 20)
    assert [len(task) for task in score_batches._divide_images(batch.images.values())] == [8, 2]


# Interruptions ------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_resumes(images: Path, work: Path, tmp_path: Path, shards_of_8: None) -> None:
    pairs = pairs_of(work, 20)
    run(pairs, images, CountingScorer(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):  # in the second shard, whose six images take two batches
        run(pairs, images, CountingScorer(fail_after=3), tmp_path / "parts")
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["part-00000.parquet", "run_config.json"]
    with pytest.raises(ValueError, match="scoring is not finished"):
        read_scores(tmp_path / "parts")
    rest = CountingScorer()
    summary = run(pairs, images, rest, tmp_path / "parts")
    assert sorted(rest.captions) == sorted(f"cäption {number}" for number in range(8, 20))
    assert (summary.scored, summary.shards, summary.resumed_shards) == (20, 3, 1)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert read_manifest(tmp_path / "parts").counts.scored == 20


def test_a_finished_run_is_not_repeated(images: Path, work: Path, tmp_path: Path, shards_of_8: None) -> None:
    pairs, out = pairs_of(work, 20), tmp_path / "out"
    run(pairs, images, CountingScorer(), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = CountingScorer()
    summary = run(pairs, images, again, out)
    assert again.captions == [] and (summary.scored, summary.resumed_shards) == (20, 3)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "part-00001.parquet").unlink()
    missing = CountingScorer()
    run(pairs, images, missing, out)
    assert len(missing.captions) == 8 and {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_finished_run_is_recognized_without_reading(
    clip_folder: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = work / "images", tmp_path / "out"
    folder.mkdir()
    for number in range(6):
        make_image(number).save(folder / f"{number}.png")
    pairs = pairs_of(work, 6)
    settings: dict[str, Any] = {"images": folder, "scorers": [clip_folder], "num_workers": 0}
    first = score_pairs(pairs, out, **settings)
    assert first.resumed_shards == 0
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}

    with monkeypatch.context() as patch, caplog.at_level("INFO", "aligngpt"):
        patch.setattr("aligngpt.data.sources.Source.shards", None)
        patch.setattr("aligngpt.curation.scoring.scorers.ClipScorer.from_pretrained", None)
        again = score_pairs(pairs, out, **settings)
    assert (again.scored, again.shards, again.resumed_shards) == (6, 1, 1)
    assert f"complete: {out}; nothing to do" in caplog.text

    pairs.touch()  # compared by content, which is the same
    assert score_pairs(pairs, out, **settings).resumed_shards == 1
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == before
    make_image(7, (50, 50)).save(folder / "0.png")
    with pytest.raises(ValueError, match=r"inputs\.images_hash is"):
        score_pairs(pairs, out, **settings)
    with pytest.raises(ValueError, match=r"inputs\.long_captions is \"truncate\" there, \"chunk-mean\" requested"):
        score_pairs(pairs, out, **settings, long_captions="chunk-mean")


def test_shards_of_the_work_add_up(images: Path, work: Path, tmp_path: Path, shards_of_8: None) -> None:
    pairs = pairs_of(work, 38)
    run(pairs, images, CountingScorer(), tmp_path / "whole")
    summaries, requested = [], []
    for index in (2, 3, 1):
        scorer = CountingScorer()
        summaries.append(run(pairs, images, scorer, tmp_path / "shares", shard=(index, 3)))
        requested.append(len(scorer.captions))
    assert requested == [8 + 6, 8, 8 + 8]  # shards 1 and 4, then 2, then 0 and 3
    assert [summary.missing_shards for summary in summaries] == [3, 2, 0]
    assert [summary.scored for summary in summaries] == [14, 22, 38]
    assert contents(tmp_path / "shares") == contents(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"shard must be i/n with i from 1 to n, got 4/3"):
        run(pairs, images, CountingScorer(), tmp_path / "shares", shard=(4, 3))


def test_scores_of_another_input_are_refused(images: Path, work: Path, tmp_path: Path, shards_of_8: None) -> None:
    pairs, out = pairs_of(work, 12), tmp_path / "out"
    run(pairs, images, CountingScorer(), out)
    other_images = tmp_path / "images"
    other_images.mkdir()
    for number in range(6):
        make_image(number, (50, 50)).save(other_images / f"{number}.png")
    (tmp_path / "other").mkdir()
    other_pairs = pairs_of(tmp_path / "other", 12, note="changed")
    changes: list[tuple[str, Path, Path, Any, dict[str, Any]]] = [
        ("inputs.pairs_hash", other_pairs, images, CountingScorer(), {}),
        ("inputs.images_hash", pairs, other_images, CountingScorer(), {}),
        (r"inputs.scorers\.0\.weights_hash", pairs, images, CountingScorer(weights_hash="def"), {}),
        ("inputs.scorers", pairs, images, [CountingScorer(), CountingScorer("b")], {}),
        ("inputs.long_captions", pairs, images, CountingScorer(), {"long_captions": "chunk-mean"}),
    ]
    for differing, source, folder, scorer, settings in changes:
        with pytest.raises(ValueError, match=rf"belongs to another run: {differing} is .*; choose another"):
            run(source, folder, scorer, out, **settings)
    (out / "part-00001.parquet").write_bytes((out / "part-00000.parquet").read_bytes())
    with pytest.raises(ValueError, match=r"part-00001\.parquet does not hold the scores of its shard"):
        run(pairs, images, CountingScorer(), out)


def kill_this_process(image: DecodedImage) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_decoding_process_that_is_killed_ends_the_run_in_one_line(images: Path, work: Path, tmp_path: Path) -> None:
    scorer = CountingScorer()
    scorer.preparation = kill_this_process
    with pytest.raises(OSError, match="a process that decodes images was killed, possibly out of memory"):
        run(pairs_of(work, 12), images, scorer, tmp_path / "out", num_workers=2)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run_config.json"]


# Arguments and progress ----------------------------------------------------------------------------------------


def test_impossible_arguments_are_refused(images: Path, work: Path, tmp_path: Path) -> None:
    pairs = pairs_of(work, 2)
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (CountingScorer(), {"batch_size": 0}, "batch_size must be between 1 and 1,048,576, got 0"),
        (CountingScorer(), {"batch_size": 10**20}, "batch_size must be between 1 and 1,048,576, got 1000"),
        (CountingScorer(), {"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ([], {}, "at least one scorer"),
        ([CountingScorer(), CountingScorer()], {}, "scorers are named after their folders, got counting, counting"),
    ]
    for scorer, settings, message in wrong:
        with pytest.raises(ValueError, match=message):
            run(pairs, images, scorer, tmp_path / "out", **settings)
    with pytest.raises(ValueError, match=r"pairs\.json: images are given by paths; pass the folder of --images"):
        run(pairs, None, CountingScorer(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_input_without_a_usable_record_is_an_error(work: Path, tmp_path: Path) -> None:
    for records, count in (([], 0), ([llava(0), llava(1)], 2)):
        pairs = write_json(work, records)
        for _ in range(2):
            with pytest.raises(ValueError, match=f"has {count} records and none of them can be used") as caught:
                run(pairs, work, CountingScorer(), tmp_path / str(count))
            assert not (tmp_path / str(count)).exists()
        assert ("p0: 0.png: no such file" in str(caught.value)) == bool(records)


def test_progress_without_a_terminal_is_lines_after_some_time(
    images: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(pairs_of(work, 8), images, CountingScorer(), tmp_path / "quick", show_progress=True)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr("aligngpt.utils.progress.FIRST_LINE", 0)
    monkeypatch.setattr("aligngpt.utils.progress.INTERVAL", 0)
    run(pairs_of(work, 20), images, CountingScorer(), tmp_path / "json", show_progress=True)
    assert "aligngpt: scoring: 20 of 20, about 0 s left" in capfd.readouterr().err
    for number in range(3):
        write_tar(work / "tars" / f"{number}.tar", samples(range(4)))
    with pytest.raises(ValueError, match="none of them can be used"):
        run(work / "tars", None, CountingScorer(), tmp_path / "tars", show_progress=True)
    assert "aligngpt: scoring shards (4 pairs): 1 of 3, about" in capfd.readouterr().err


def test_a_progress_bar_counts_pairs_on_a_terminal(
    images: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run(pairs_of(work, 8), images, CountingScorer(), tmp_path / "out", show_progress=True)
    captured = capsys.readouterr()
    assert "8/8" in captured.err and captured.out == ""


def test_hashes_of_captions_and_images() -> None:
    same = ["A  Cat\n", "a cat", " a\u00a0CAT "]
    assert len({caption_hash(text) for text in same}) == 1
    assert caption_hash("ﬁne") == caption_hash("fine") != caption_hash("fin")
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(2)]

    def phash(image: Image.Image) -> int:
        return perceptual_hash(DecodedImage(image, (0, 0, *image.size), image.size))

    large, small, other = coarse[0].resize((800, 600)), coarse[0].resize((90, 70)), coarse[1].resize((800, 600))
    packed = io.BytesIO()
    large.save(packed, "JPEG", quality=50)
    assert (phash(large) ^ phash(Image.open(packed))).bit_count() <= 4
    assert (phash(large) ^ phash(small)).bit_count() <= 10
    assert (phash(large) ^ phash(other)).bit_count() >= 16
