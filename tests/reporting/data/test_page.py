"""The data report: complete, self-contained, escaped, bounded in size, and explicit about inputs that are missing."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligngpt.curation.scoring.local_backend import score_source
from aligngpt.data.sources import open_source
from aligngpt.reporting import DataReport, report_data
from aligngpt.utils.text import printable
from tests.curation.counting import CountingScorer
from tests.reporting.html_pages import Page, check_self_contained, check_structure
from tests.reporting.score_folders import rows_table, synthetic, write_levels, write_pairs, write_scores
from tests.tiny import make_image

SECTIONS = ["scores", "pairs", "lowest", "boundaries", "duplicates", "captions", "scorers", "errors", "provenance"]
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;"
MOST_BYTES = 10_000_000


@dataclass(frozen=True)
class Inputs:
    """What a page is made of."""

    table: Any
    scores: Path
    levels: Path
    pairs: Path
    images: Path

    def write(self, output: Path, **changed: Any) -> Page:
        """The page of all inputs but those changed; `None` leaves one out."""
        given = {"levels": self.levels, "data": self.pairs, "images": self.images} | changed
        return Page(report_data(given.pop("scores", self.scores), output, **given).report)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("data")
    table = synthetic(1_000, images=120)
    pairs, images = write_pairs(folder, table, num_images=120)
    scores = write_scores(folder / "my-scores", table, pairs=pairs)
    return Inputs(table, scores, write_levels(folder / "levels", table), pairs, images)


@pytest.fixture(scope="module")
def whole(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return inputs.write(tmp_path_factory.mktemp("page") / "new" / "page.html")


def texts(page: Page) -> str:
    return " ".join(page.text.values())


def test_the_page_has_all_sections(whole: Page) -> None:
    found = [found["id"] for tag, found in whole.tags if tag == "section" and "id" in found]
    assert found == SECTIONS
    assert [found["href"] for tag, found in whole.tags if tag == "a"][1:] == [f"#{name}" for name in SECTIONS]
    assert "Not available." not in texts(whole) and "image missing" not in texts(whole)


def test_the_page_is_self_contained_and_accessible(whole: Page) -> None:
    check_self_contained(whole)
    check_structure(whole)
    images = [found for tag, found in whole.tags if tag == "img"]
    assert len(images) > 8 * 5 + 24 + 7 * 2 and len({found["alt"] for found in images}) > 100
    assert sum(tag == "svg" for tag, _ in whole.tags) == 3


def test_the_insights_are_at_the_top(inputs: Inputs, whole: Page, tmp_path: Path) -> None:
    written = report_data(inputs.scores, tmp_path / "page.html")
    assert isinstance(written, DataReport) and len(written.insights) >= 6
    assert all(sentence in whole.text["header"] for sentence in map(" ".join, map(str.split, written.insights)))
    scored = 1_000 - inputs.table["clip_score"].null_count
    assert whole.text["header"].startswith("AlignGPT · data report my-scores")
    assert written.insights[0].startswith(f"{scored} of 1,000 pairs have a score")


def test_the_same_scores_make_the_same_page(inputs: Inputs, whole: Page, tmp_path: Path) -> None:
    assert inputs.write(tmp_path / "again.html").html == whole.html


def test_the_lowest_pairs_are_shown_with_caption_score_and_name(inputs: Inputs, whole: Page) -> None:
    known = [row for row in inputs.table.to_pylist() if row["clip_score"] is not None]
    lowest = min(known, key=lambda row: row["clip_score"])
    score, other = (
        f"{lowest[name]:.3f}".replace("-", "\N{MINUS SIGN}") for name in ("clip_score", "clip_score_clip-b")
    )
    index = int(lowest["id"])
    shown = f"score {score} 1 clip-b {other} Caption <{index}>. {lowest['id']} {lowest['image']}"
    assert shown in whole.text["lowest"]


def test_errors_are_counted_by_reason_and_named(inputs: Inputs, whole: Page) -> None:
    errors = [row for row in inputs.table.to_pylist() if row["error"]]
    cut = [row for row in errors if row["error"].startswith("truncated")]
    first = f"{cut[0]['id']} ({cut[0]['image']})"
    assert f"(N bytes not processed) {len(cut)} {first}" in whole.text["errors"]


def test_scores_alone_make_a_page(inputs: Inputs, tmp_path: Path) -> None:
    page = Page(report_data(inputs.scores, tmp_path / "page.html").report)
    check_structure(page)
    assert "Levels: pass --levels" in page.text["scores"] and "Captions: pass --data" in page.text["pairs"]
    assert "boundaries" not in page.text and not any(tag == "img" for tag, _ in page.tags)
    assert "image missing" not in texts(page)


def test_images_can_be_shown_without_the_pairs(inputs: Inputs, tmp_path: Path) -> None:
    page = inputs.write(tmp_path / "page.html", data=None)
    assert any(tag == "img" for tag, _ in page.tags) and "Caption <" not in texts(page)


def _parquet(folder: Path, rows: list[dict[str, Any]]) -> str:
    records = [row | {"image": {"bytes": row["image"], "path": None}} for row in rows]
    pq.write_table(pa.Table.from_pylist(records), folder / "pairs.parquet")
    return str(folder / "pairs.parquet")


def _tars(folder: Path, rows: list[dict[str, Any]]) -> str:
    """Two tars of six pairs."""
    for number in (0, 1):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for row in rows[6 * number : 6 * number + 6]:
                for name, data in ((f"{row['id']}.png", row["image"]), (f"{row['id']}.txt", row["caption"].encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return str(folder / "{0..1}.tar")


@pytest.mark.parametrize(("write", "part"), [(_parquet, 12), (_tars, 6)])
def test_images_stored_in_the_data_are_shown(tmp_path: Path, write: Any, part: int) -> None:
    rows = []
    for index in range(12):
        buffer = io.BytesIO()
        make_image(index).save(buffer, "PNG")
        rows.append({"id": f"p{index}", "image": buffer.getvalue(), "caption": f"No. {index}"})
    pairs = write(tmp_path, rows)
    table = rows_table([{"clip_score": index / 20} for index in range(12)])
    scores = write_scores(tmp_path / "scores", table, part=part, pairs=pairs)
    page = Page(report_data(scores, tmp_path / "page.html", data=pairs).report)
    assert len({found["src"] for tag, found in page.tags if tag == "img"}) == 12
    assert all(f"No. {index}" in page.text["pairs"] for index in range(12))


def test_text_is_never_markup(tmp_path: Path) -> None:
    rows = [{"id": f"{EVIL}{index}", "image": f"{EVIL}.png", "clip_score": index / 40} for index in range(30)]
    rows.append({"id": "bad", "image": EVIL, "error": EVIL})
    pairs = [
        {"id": row["id"], "image": row["image"],
         "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": EVIL}]}
        for row in rows
    ]  # fmt: skip
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    scores = write_scores(tmp_path / "<b>scores", rows_table(rows), pairs=tmp_path / "pairs.json")
    manifest = json.loads((scores / "manifest.json").read_text())
    manifest["scorers"][0]["name"] = manifest["versions"][EVIL] = EVIL
    (scores / "manifest.json").write_text(json.dumps(manifest))
    page = Page(report_data(scores, tmp_path / "page.html", data=tmp_path / "pairs.json", images=tmp_path).report)
    check_self_contained(page)
    assert all(EVIL in page.text[name] for name in ("scores", "pairs", "lowest", "provenance"))
    assert "<script>alert" in page.text["errors"] and "<b>scores" in page.text["header"]


def test_long_texts_are_cut(tmp_path: Path) -> None:
    caption, name = "word " * 20_000, "n" * 5_000
    pair = {"id": name, "image": "a.png", "caption": caption}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    table = rows_table([{"id": name, "image": "a.png", "clip_score": 0.2}])
    scores = write_scores(tmp_path / "scores", table, pairs=tmp_path / "pairs.jsonl")
    page = Page(report_data(scores, tmp_path / "page.html", data=tmp_path / "pairs.jsonl", images=tmp_path).report)
    assert "… (100,000 characters)" in page.text["pairs"] and len(page.html) < 100_000


def test_images_outside_of_the_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    make_image(1).save(tmp_path / "outside.png")
    for index, name in enumerate(("../outside.png", str(tmp_path / "outside.png"))):
        scores = write_scores(tmp_path / f"scores{index}", rows_table([{"image": name, "clip_score": 0.2}]))
        page = Page(report_data(scores, tmp_path / "page.html", images=tmp_path / "images").report)
        assert not any(tag == "img" for tag, _ in page.tags)


def test_levels_of_the_second_scorer_put_it_first(inputs: Inputs, tmp_path: Path) -> None:
    page = inputs.write(tmp_path / "page.html", levels=write_levels(tmp_path / "levels", inputs.table, 4, scorer=1))
    assert "embeddings under clip-b" in page.text["scores"]
    assert "clip-b and clip-a agree" in page.text["scorers"]


def test_levels_of_another_scorer_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    levels = write_levels(tmp_path / "levels", inputs.table)
    content = json.loads((levels / "levels.json").read_text())
    content["scorer"] |= {"name": "other", "weights_hash": "f" * 64}
    (levels / "levels.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"scores by other \(ffffffff\), .* by clip-a and clip-b; pass levels"):
        inputs.write(tmp_path / "page.html", levels=levels)


@pytest.mark.parametrize("change", ["order", "fewer", "shards"])
def test_other_pairs_are_refused_and_the_old_page_stays(inputs: Inputs, tmp_path: Path, change: str) -> None:
    records = json.loads(inputs.pairs.read_text())
    changed = {"order": records[::-1], "fewer": records[:500], "shards": records * 11}[change]
    (tmp_path / "pairs.json").write_text(json.dumps(changed))
    (tmp_path / "page.html").write_text("the old page")
    scores = write_scores(tmp_path / "scores", inputs.table, pairs=tmp_path / "pairs.json")  # as if all were the same
    with pytest.raises(ValueError, match="pass the data that were scored"):
        inputs.write(tmp_path / "page.html", scores=scores, data=tmp_path / "pairs.json")
    assert (tmp_path / "page.html").read_text() == "the old page"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "pairs.json", "scores"]


def test_other_captions_under_the_same_ids_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text(inputs.pairs.read_text().replace("Caption", "Another"))
    with pytest.raises(ValueError, match=r"pairs\.json: not the pairs of .*; pass the data that were scored$"):
        inputs.write(tmp_path / "page.html", data=tmp_path / "pairs.json")


def test_captions_are_read_from_the_field_that_was_scored(tmp_path: Path) -> None:
    records = [{"key": f"p{index}", "file": f"{index}.png", "caption": "no", "alt": f"No. {index}"} for index in (0, 1)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)))
    for index in (0, 1):
        make_image(index).save(tmp_path / f"{index}.png")
    fields = {"image_column": "file", "caption_column": "alt", "id_column": "key"}
    source = open_source(tmp_path / "pairs.jsonl", tmp_path, **fields)
    score_source(source, [CountingScorer()], tmp_path / "scores", num_workers=0, show_progress=False)
    page = Page(report_data(tmp_path / "scores", tmp_path / "page.html", data=source.path, images=tmp_path).report)
    assert "No. 0 p0 0.png" in page.text["pairs"] and "No. 1 p1 1.png" in page.text["pairs"]


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    name, caption = "p\x1b[31m\x00\u202e", "a\x07 red\x85 cat \u200d\U0001f431"
    pair = {"id": name, "image": f"{name}.png", "caption": caption}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    table = rows_table([{"id": name, "image": f"{name}.png", "clip_score": 0.2}, {"error": "no \x9bfile"}])
    scores = write_scores(tmp_path / "scores\x1b]0;", table, pairs=tmp_path / "pairs.jsonl")
    manifest = json.loads((scores / "manifest.json").read_text())
    manifest["scorers"][0]["name"] = "clip\u2028"
    (scores / "manifest.json").write_text(json.dumps(manifest))
    written = report_data(scores, tmp_path / "page.html")
    page = Page(written.report)
    assert not set(page.html) & set("\x00\x07\x1b\x85\x9b\u2028\u202e")
    assert r"p\x1b[31m\x00\u202e p\x1b[31m\x00\u202e.png" in page.text["pairs"]
    assert r"no \x9bfile" in page.text["errors"] and r"no \x9bfile." in written.insights[1]
    assert r"scores\x1b]0;" in page.text["header"] and r"under clip\u2028" in page.text["scores"]
    pq.write_table(table.slice(0, 1), scores / "part-00000.parquet")
    page = Page(report_data(scores, tmp_path / "page.html", data=tmp_path / "pairs.jsonl").report)
    assert "a\\x07 red cat \u200d\U0001f431" in page.text["pairs"]
    assert printable(" \ud800\u2066ü\n") == r" \ud800\u2066ü\n"


def test_captions_truncated_after_many_chunks_are_described(tmp_path: Path) -> None:
    table = rows_table([{"clip_score": 0.2, "text_truncated": True}, {"clip_score": 0.3}])
    scores = write_scores(tmp_path / "scores", table, long_captions="chunk-mean")
    levels = write_levels(tmp_path / "levels", table)
    page = Page(report_data(scores, tmp_path / "page.html", levels=levels).report)
    limit = "longer than 64 times the scorer's context"
    assert f"is {limit}" in page.text["header"] and f"Captions {limit}" in page.text["captions"]
    assert "Truncated captions" in page.text["scores"] and "Long captions" not in texts(page)


def test_the_agreement_of_scorers_is_that_of_the_manifest(inputs: Inputs, whole: Page) -> None:
    (told,) = json.loads((inputs.scores / "manifest.json").read_text())["agreement"]
    said = f"correlation {told['spearman']:.2f} over {told['pairs']} pairs. With 8 levels of equal size each, "
    assert f"{said}{100 * told['equal_levels']:.1f}% of the pairs get the same level" in whole.text["scorers"]


def test_a_scorer_with_one_score_is_not_compared(tmp_path: Path) -> None:
    table = rows_table([{"clip_score": index / 10, "clip_score_clip-b": 0.5} for index in range(5)])
    page = Page(report_data(write_scores(tmp_path / "scores", table), tmp_path / "page.html").report)
    assert page.text["scorers"].endswith("cannot be compared by rank: one of them gives every pair the same score.")


def test_without_scores_the_page_has_the_reasons_only(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", rows_table([{"error": "no such file"}] * 3))
    page = Page(report_data(scores, tmp_path / "page.html").report)
    sections = [found["id"] for tag, found in page.tags if tag == "section" and "id" in found]
    assert sections == ["scores", "errors", "provenance"]


def test_equal_boundaries_leave_levels_empty(tmp_path: Path) -> None:
    table = rows_table([{"clip_score": 0.5}] * 4 + [{"clip_score": 0.2}])
    levels = write_levels(tmp_path / "levels", table, 4)
    page = Page(report_data(write_scores(tmp_path / "scores", table), tmp_path / "page.html", levels=levels).report)
    assert "No pair." not in page.text["pairs"] and page.text["boundaries"].count("boundary 0.5000") == 1
    assert "Level 1 to level 4 boundary 0.5000" in page.text["boundaries"]
    assert "2 \N{EN DASH} 0 0.0" in page.text["scores"]


@pytest.mark.parametrize(
    "rows", [[], [{"error": "no such file"}] * 3, [{"clip_score": 0.2}], [{"clip_score": 0.2}] * 9]
)
def test_very_few_scores_make_a_page(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    table = rows_table(rows)
    scored = any("clip_score" in row for row in rows)
    levels = write_levels(tmp_path / "levels", table) if scored else None
    page = Page(report_data(write_scores(tmp_path / "scores", table), tmp_path / "page.html", levels=levels).report)
    check_structure(page)
    assert f"{len(rows)} pair" in page.text["header"]


def test_the_largest_page_stays_small(tmp_path: Path) -> None:
    """64 levels, three scorers' worth of examples and images of noise, which JPEG hardly makes smaller."""
    table = synthetic(4_000, images=400)
    pairs, images = write_pairs(tmp_path, table, num_images=400, side=200)
    levels = write_levels(tmp_path / "levels", table, 64)
    scores = write_scores(tmp_path / "scores", table, pairs=pairs)
    page = Page(report_data(scores, tmp_path / "page.html", levels=levels, data=pairs, images=images).report)
    assert sum(tag == "img" for tag, _ in page.tags) > 200
    assert len(page.html.encode()) < MOST_BYTES


def test_many_pairs_make_a_page_as_small_as_few(tmp_path: Path) -> None:
    table = synthetic(200_000)
    scores, levels = write_scores(tmp_path / "scores", table), write_levels(tmp_path / "levels", table)
    page = Page(report_data(scores, tmp_path / "page.html", levels=levels).report)
    assert len(page.html.encode()) < 300_000
    assert "200,000" in page.text["header"] and "200,000 pairs have a score" in page.text["scores"]
