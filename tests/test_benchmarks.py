"""The scripts of benchmarks/ run at small sizes and write complete results."""

from __future__ import annotations

import gzip
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from benchmarks import batched_generation, clip_files, clip_peers, convert_memory, scaling, scoring, scoring_gpu

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def test_convert_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(convert_memory, "HIDDEN", 256)
    monkeypatch.setattr(convert_memory, "INTERMEDIATE", 512)
    options = ["convert_memory", "--gigabytes", "0.001", "--files", "2", "--output", str(tmp_path / "result.json")]
    monkeypatch.setattr("sys.argv", options)
    convert_memory.main()
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "result.json").read_text())
    assert printed["convert"]["within_bound"] and printed["to_official"]["within_bound"]
    assert printed["convert"]["peak_mb"] > 100


def test_the_recorded_conversion_is_within_its_bound() -> None:
    recorded = json.loads((RESULTS / "convert_memory.json").read_text())
    assert recorded["checkpoint_mb"] > 2000
    for direction in ("convert", "to_official"):
        assert recorded[direction]["peak_mb"] <= recorded["bound_mb"] == recorded["largest_file_mb"] + 1000


def test_batched_generation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batched_generation, "LENGTHS", (1, 3))
    options = ["batched_generation", "--questions", "7", "--rounds", "1", "--output", str(tmp_path / "result.json")]
    monkeypatch.setattr("sys.argv", options)
    batched_generation.main()
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "result.json").read_text())
    assert [row["new_tokens"] for row in printed["lengths"]] == [1, 3]
    assert all(row["same_answers"] and row["batched"] > 0 for row in printed["lengths"])


def test_the_recorded_batches_reach_the_target() -> None:
    recorded = json.loads((RESULTS / "batched_generation.json").read_text())
    assert recorded["ratio"] == recorded["lengths"][-1]["ratio"] >= recorded["target"] == batched_generation.TARGET
    assert (recorded["batch_size"], recorded["lengths"][-1]["new_tokens"]) == (16, 45)


# Scoring --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_files.save_clip(tmp_path_factory.mktemp("benchmarks") / "tiny", "tiny")


def test_every_caption_word_is_one_token(tiny: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(tiny)
    texts = clip_files.captions(40)
    input_ids = tokenizer(texts)["input_ids"]
    assert [len(ids) - 2 for ids in input_ids] == [len(text.split()) for text in texts]
    assert min(map(len, input_ids)) >= 8 + 2 and max(map(len, input_ids)) <= 16 + 2
    assert {ids[-1] for ids in input_ids} == {CLIPConfig.from_pretrained(tiny).text_config.eos_token_id}


def test_open_clip_gets_the_merges_of_the_folder(tmp_path: Path, tiny: Path) -> None:
    packed = clip_files.save_merges(tiny, tmp_path / "merges.txt.gz").read_bytes()
    (version, *lines) = gzip.decompress(packed).decode().split("\n")
    assert version.startswith("#") and lines[-1]
    vocabulary = CLIPTokenizer.from_pretrained(tiny).get_vocab()
    assert [vocabulary[line.replace(" ", "")] for line in lines] == list(range(512, 512 + len(lines)))


def test_open_clip_gets_every_weight_once(tiny: Path) -> None:
    state = CLIPModel.from_pretrained(tiny).state_dict()
    converted = clip_peers.open_clip_state(state)
    sizes = [
        sum(tensor.numel() for name, tensor in weights.items() if "position_ids" not in name)
        for weights in (state, converted)
    ]
    assert sizes[0] == sizes[1]
    packed = converted["visual.transformer.resblocks.1.attn.in_proj_weight"]
    key = state["vision_model.encoder.layers.1.self_attn.k_proj.weight"]
    assert torch.equal(packed[64:128], key)
    assert torch.equal(converted["visual.proj"], state["visual_projection.weight"].T)


class InThisProcess:
    """A scorer in this process, without the start of another one."""

    def __init__(self, name: str, setup: scoring.Setup) -> None:
        """As `scoring.SideProcess`."""
        self._asked, self._asking = multiprocessing.Pipe()
        self._name, self._setup = name, setup

    def __call__(self) -> tuple[float, np.ndarray | None]:
        """Run the loop of the process for one request."""
        self._asking.send(True)
        self._asking.send(False)
        scoring.serve(self._asked, self._name, self._setup)
        assert self._asking.recv() is None
        seconds, scores = self._asking.recv()
        return seconds, scores

    def close(self) -> None:
        """Do nothing."""


def test_scoring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scoring, "SideProcess", InThisProcess)
    output = tmp_path / "result.json"
    options = ["--model", "tiny", "--images", "4", "--rounds", "2", "--workers", "0", "--output", str(output)]
    options += ["--retries", "0"]
    scoring.main([*options, "--cases", "five captions"])
    result = json.loads(output.read_text())
    (case,) = result["cases"]
    assert (case["pairs"], case["images"]) == (20, 4)
    assert case["largest_score_difference"]["transformers"] < 0.01
    seconds = case["seconds_by_round"]
    assert [len(rounds) for rounds in seconds.values()] == [2] * len(seconds)
    assert seconds.keys() >= {"aligngpt", "transformers", "model alone"}


def test_different_scores_are_an_error() -> None:
    sides = {"one": lambda: (1.0, np.zeros(2)), "other": lambda: (2.0, np.array([0, 0.02]))}
    with pytest.raises(SystemExit, match="scores differ"):
        scoring.timed(sides, 1, 0)


def test_scoring_gpu(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    options = ["--model", "tiny", "--pairs", "6", "--batch-size", "4", "--rounds", "2", "--workers", "0"]
    scoring_gpu.main([*options, "--output", str(output)])
    result = json.loads(output.read_text())
    assert result["pairs_per_second"].keys() == {"aligngpt", "model alone"} and result["device"]
    assert result["share_of_model"] > 0


# Scaling --------------------------------------------------------------------------------------------------------------


def test_scaling_fits_exponent_start_and_growth(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Simulate a command of 5 s plus 0.1 s per pair, slower in the first round, with superlinear CPU time."""

    def score(pairs: Path, images: Path, clip: Path, output: Path) -> dict[str, float]:
        count = int(pairs.stem)
        output.mkdir()
        (output / "part-00000.parquet").write_bytes(b"x" * 3 * count)
        slower = 0.5 if output.name.endswith("-0") else 0.0
        return {"seconds": 5 + count / 10 + slower, "cpu_seconds": 3 + count**1.1, "peak": 1e8 + 4e4 * count}

    monkeypatch.setattr(scaling, "DISTINCT", 2)
    monkeypatch.setattr(scaling, "score", score)
    result = scaling.over_sizes([20, 100, 500], 10, 2, tmp_path, tmp_path)
    seconds, processor = result["over_seconds"], result["over_cpu_seconds"]
    assert (seconds["start"], seconds["exponent_less_start"]) == (5, 1)
    assert 0.6 < seconds["exponent"] < 0.7 and seconds["milliseconds_a_pair_at_the_end"] == 100
    assert (processor["start"], processor["exponent_less_start"], processor["exponent"]) == (
        3,
        1.1,
        pytest.approx(1.1, abs=0.1),
    )
    assert result["memory_growth"] == pytest.approx(1.2 / 1.008, abs=1e-3) and result["bytes_a_row"] == 3
    assert result["within_bounds"] == {"exponent": True, "memory": False}


def test_scaling_runs_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path) -> None:
    monkeypatch.setattr(scaling, "DISTINCT", 2)
    pairs, images = scaling.make_input(tmp_path, 3)
    result = scaling.score(pairs, images, tiny, tmp_path / "scores")
    assert result["peak"] > 1e8 and result["cpu_seconds"] > 0 and result["seconds"] > 0
    assert (tmp_path / "scores" / "part-00000.parquet").is_file()


def test_unit_costs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scaling, "LARGE", (400, 300))
    threads = torch.get_num_threads()
    try:
        costs = scaling.unit_costs("tiny", 2, 10, tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert costs["json_bytes_a_record"] > 100
    seconds = [value for name, value in costs.items() if name.endswith("_cpu_seconds")]
    assert len(seconds) == 5 and all(0 < value < 1 for value in seconds)


def test_cost_of_the_report(tmp_path: Path) -> None:
    cost = scaling.page_cost(50, tmp_path)
    assert cost["file_kb"] > 10 and cost["cpu_seconds"] > 0
