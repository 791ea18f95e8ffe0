"""What each command passes to its function, and what it prints of the result."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from aligngpt.cli import cli
from aligngpt.curation.scoring.store import read_scores
from aligngpt.experiments.artifacts import Estimate, Summary
from aligngpt.inference.chat_session import ChatAnswer
from aligngpt.training.artifacts import ModuleSummary, TrainResult
from aligngpt.training.configs import FINETUNE_PRESETS, PRETRAIN_PRESETS
from tests.curation.counting import CountingScorer


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="aligngpt")


def record(monkeypatch: pytest.MonkeyPatch, target: str, result: Any) -> list[dict[str, Any]]:
    """Replace a function by one that takes the same arguments, keeps them, prints noise and returns `result`."""
    module_name, name = target.rsplit(".", 1)
    module = importlib.import_module(module_name)
    signature = inspect.signature(getattr(module, name))
    calls: list[dict[str, Any]] = []

    def replacement(*args: Any, **kwargs: Any) -> Any:
        calls.append(dict(signature.bind(*args, **kwargs).arguments))
        print("noise of the work")
        return result

    monkeypatch.setattr(module, name, replacement)
    return calls


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Eight good pairs of growing brightness."""
    folder = tmp_path / "images"
    folder.mkdir()
    records = []
    for index in range(8):
        Image.new("L", (8, 8), 30 * index + 10).save(folder / f"{index}.png")
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "Grey."}]
        records.append({"id": str(index), "image": f"{index}.png", "conversations": turns})
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps(records))
    return file


@pytest.fixture
def gray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "aligngpt.curation.scoring.scorers.ClipScorer.from_pretrained", lambda folder, **options: CountingScorer()
    )


def score_arguments(pairs: Path, model: Path, *more: str) -> list[object]:
    folder = pairs.parent
    return [
        *("score", "--data", pairs, "--images", folder / "images", "--scorer", model, "--output", folder / "scores"),
        *more,
    ]


# ---------------------------------------------------------------------------------------------------- score and level


@pytest.mark.usefixtures("gray")
def test_score_prints_json_alone(pairs: Path, model: Path) -> None:
    done = invoke(*score_arguments(pairs, model, "--json"))
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["scored"], result["failed"], result["truncated"]) == (8, 0, 0)
    assert "bad record" not in done.stderr


def break_images(pairs: Path) -> None:
    """Remove one image, empty another, truncate a third after its header."""
    images = pairs.parent / "images"
    (images / "1.png").unlink()
    (images / "2.png").write_bytes(b"")
    Image.effect_noise((64, 64), 90).save(images / "3.png")
    content = (images / "3.png").read_bytes()
    (images / "3.png").write_bytes(content[: len(content) // 2])


@pytest.mark.usefixtures("gray")
def test_score_names_and_skips_every_bad_file(pairs: Path, model: Path) -> None:
    break_images(pairs)
    done = invoke(*score_arguments(pairs, model, "--json"))
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["scored"], result["failed"]) == (5, 3)
    named = [line for line in done.stderr.splitlines() if ".png" in line]
    assert [next(f"{n}.png" for n in range(8) if f"{n}.png" in line) for line in named] == ["1.png", "2.png", "3.png"]
    again = invoke(*score_arguments(pairs, model))
    assert again.exit_code == 0
    assert [line for line in again.stderr.splitlines() if ".png" in line] == named, "a resumed run names them too"


@pytest.mark.usefixtures("gray")
def test_strict_is_exit_code_3_and_keeps_what_it_scored(pairs: Path, model: Path) -> None:
    break_images(pairs)
    done = invoke(*score_arguments(pairs, model, "--strict"))
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1].startswith("aligngpt: error: 3 of 8 records are bad")
    assert read_scores(pairs.parent / "scores")["clip_score"].null_count == 3


@pytest.mark.usefixtures("gray")
def test_level_and_pairs_with_levels(pairs: Path, model: Path) -> None:
    folder = pairs.parent
    assert invoke(*score_arguments(pairs, model)).exit_code == 0
    leveled = folder / "leveled.json"
    again = invoke(*score_arguments(pairs, model))
    assert again.stdout == "8 pairs with a score, 0 without\n" and "complete: " in again.stderr
    common = ["level", "--scores", folder / "scores", "--output", folder / "levels", "--num-levels", "4"]
    done = invoke(*common, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == [2, 2, 2, 2]
    assert invoke(*common).stdout == "pairs of level 1 to 4: 2, 2, 2, 2\n"
    curated = ("--scores", folder / "scores", "--levels", folder / "levels" / "levels.parquet")
    written = invoke("filter", "--data", pairs, *curated, "--write-levels", "--output", leveled)
    assert f"Next: aligngpt pretrain --data {leveled} --language-model MODEL" in written.stdout
    again = invoke("filter", "--data", pairs, *curated, "--write-levels", "--output", leveled)
    assert again.stdout == "8 of 8 pairs retained\n"
    assert [record["alignment_level"] for record in json.loads(leveled.read_text())] == [4, 4, 3, 3, 2, 2, 1, 1]
    fitted = ["level", "--scores", folder / "scores", "--output", folder / "again", "--boundaries-from"]
    table = invoke(*fitted, folder / "levels" / "levels.json")
    assert table.exit_code == 0, table.stderr
    assert "from score" in table.stdout and "unscored" not in table.stdout


# ----------------------------------------------------------------------------------------------------------- training

TRAINED = TrainResult(
    stage="pretrain",
    alignment="levels",
    global_step=2,
    global_batch_size=4,
    num_samples=8,
    num_without_level=0,
    num_skipped=0,
    num_truncated=0,
    train_runtime=1.0,
    train_loss=0.6,
    final_loss=0.5,
    log_history=[],
    loss_by_level=[0.75, 0.25],
    modules=[ModuleSummary(name="projector", num_parameters=1234567, trainable=True)],
)


def test_pretrain(pairs: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record(monkeypatch, "aligngpt.training.stages.pretrain", TRAINED)
    folder = pairs.parent
    arguments = ["pretrain", "--data", pairs, "--images", folder / "images", "--output", folder / "out", "--strict"]
    done = invoke(*arguments, "--language-model", model, "--vision-tower", model, "--num-alignment-levels", "2")
    assert done.exit_code == 0, done.stderr
    config = calls[0].pop("config")
    assert config == type(config)(**{**vars(PRETRAIN_PRESETS["paper"]()), "num_alignment_levels": 2})
    assert calls[0] == {
        "data": str(pairs),
        "images": folder / "images",
        "levels": None,
        "language_model": model,
        "vision_tower": model,
        "output": folder / "out",
        "strict": True,
    }
    for text in ("1,234,567", "0.750", "truncated samples"):
        assert text in done.stdout
    assert "noise" not in done.stdout and "noise" in done.stderr


@pytest.mark.parametrize("random", [False, True])
def test_finetune(pairs: Path, model: Path, random: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record(monkeypatch, "aligngpt.training.stages.finetune", TRAINED)
    folder = pairs.parent
    arguments = ["finetune", "--data", pairs, "--images", folder / "images", "--output", folder / "out"]
    arguments += ["--preset", "synthetic", "--json"]
    arguments += ["--alignment-embeddings", "random"] if random else ["--stage1", model]
    done = invoke(*arguments, *(["--language-model", model, "--vision-tower", model] if random else []))
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == TRAINED.model_dump(exclude={"schema_version"})
    expected = {**vars(FINETUNE_PRESETS["synthetic"]()), "alignment_embeddings": "random" if random else "stage1"}
    assert vars(calls[0]["config"]) == expected
    assert calls[0]["stage1"] == (None if random else model)
    assert calls[0]["language_model"] == (model if random else None)


# ------------------------------------------------------------------------------------------------------------- models


class FakeSession:
    """Stands in for `ChatSession`: records how it is used and streams a fixed answer."""

    calls: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, model: Any, images: Any, alignment: Any) -> None:
        print("noise of the work")
        self.call = {"model": model, "images": list(images), "alignment": alignment}

    def ask(self, prompt: str, *, stream: Any, **options: Any) -> ChatAnswer:
        self.calls.append({**self.call, "prompt": prompt, "stream": stream, **options})
        for piece in ("Two ", "circles.") if stream else ():
            stream(piece)
        return ChatAnswer("Two circles.", 3, None, [5, 6], 0.1)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    monkeypatch.setattr("aligngpt.inference.chat_session.ChatSession", FakeSession)
    monkeypatch.setattr(FakeSession, "calls", [])
    return FakeSession


def test_generate_json(model: Path, pairs: Path, session: type[FakeSession]) -> None:
    images = [pairs.parent / "images" / name for name in ("0.png", "1.png")]
    options = [item for image in images for item in ("--image", image)]
    common = ["generate", "--model", model, *options, "--prompt", "How many?", "--alignment", "3"]
    done = invoke(*common, "--max-new-tokens", "5", "--temperature", "0.5", "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result.pop("load_seconds") >= 0
    assert result == asdict(ChatAnswer("Two circles.", 3, None, [5, 6], 0.1))
    options_of_call = {"max_new_tokens": 5, "temperature": 0.5, "stream": None}
    assert session.calls == [
        {"model": model, "images": images, "alignment": 3, "prompt": "How many?", **options_of_call}
    ]


def test_generate_streams_the_answer(model: Path, session: type[FakeSession]) -> None:
    assert invoke("generate", "--model", model, "--prompt", "What?").stdout.endswith("Two circles.\n")


def test_generate_accepts_a_stage_1_checkpoint_and_a_hub_name(tmp_path: Path, session: type[FakeSession]) -> None:
    (tmp_path / "stage1.json").write_text("{}")
    assert invoke("generate", "--model", tmp_path, "--prompt", "What?").exit_code == 0
    assert invoke("generate", "--model", "org/model", "--prompt", "What?").exit_code == 0
    assert [call["model"] for call in session.calls] == [tmp_path, "org/model"]


VERBOSITY_VARIABLES = ("HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage-1 checkpoint of the bundled backbones, and pairs."""
    folder = tmp_path_factory.mktemp("trained")
    data = folder / "data"
    sizes = ["--pairs", "8", "--conversations", "4", "--questions", "7"]
    assert invoke("synthetic", "generate", "--output", data, *sizes).exit_code == 0
    options = ["--preset", "synthetic", "--alignment", "none", "--max-steps", "1", "--per-device-train-batch-size", "2"]
    backbones = ["--language-model", "synthetic-llm", "--vision-tower", "synthetic-clip"]
    inputs = ["--data", data / "pretrain.json", "--images", data / "images", "--output", folder / "stage1"]
    done = invoke("pretrain", *inputs, *backbones, *options)
    assert done.exit_code == 0, done.output
    return folder


@pytest.mark.parametrize("verb", ["score", "generate", "generate --json", "chat"])
def test_loading_prints_nothing(trained: Path, tmp_path: Path, verb: str) -> None:
    data = trained / "data"
    image = str(data / "images" / "000000.png")
    asked = ["--model", str(trained / "stage1"), "--image", image, "--max-new-tokens", "2"]
    arguments = {
        "score": [
            *("--data", str(data / "pretrain.json"), "--images", str(data / "images")),
            *("--scorer", "synthetic-clip", "--output", str(tmp_path / "scores")),
        ],
        "generate": [*asked, "--prompt", "Describe the picture."],
        "chat": asked,
    }[verb.split()[0]]
    environment = {name: value for name, value in os.environ.items() if name not in VERBOSITY_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-m", "aligngpt", *verb.split(), *arguments],
        input="",
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "Loading weights" not in done.stderr and "LOAD REPORT" not in done.stderr + done.stdout


@pytest.mark.parametrize("verb", ["generate", "chat"])
def test_a_level_that_the_model_lacks_is_a_usage_error(model: Path, verb: str) -> None:
    (model / "config.json").write_text('{"num_alignment_levels": 4}')
    done = invoke(verb, "--model", model, "--alignment", "9", *(["--prompt", "a"] if verb == "generate" else []))
    assert done.exit_code == 2 and "a level from 1 to 4" in done.stderr


def test_an_empty_prompt_is_a_usage_error(model: Path) -> None:
    done = invoke("generate", "--model", model, "--prompt", " ")
    assert done.exit_code == 2
    assert "the prompt is empty" in done.stderr


def test_chat(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record(monkeypatch, "aligngpt.serving.terminal.chat", None)
    assert invoke("chat", "--model", model, "--alignment", "global").exit_code == 0
    assert list(calls[0].values()) == [model, (), "global", 256, 0.0]


# ------------------------------------------------------------------------------------------------------------- scenes


def estimate(value: float) -> Estimate:
    return Estimate(value=value, ci95=(round(value - 0.1, 3), round(value + 0.1, 3)))


def make_summary() -> Summary:
    from aligngpt.experiments.artifacts import CaptionLevel, Difference, LevelStats, VariantMetrics

    return Summary(
        synthetic={
            "adaptive": VariantMetrics(accuracy=estimate(0.875), accuracy_by_kind={"count": estimate(1.0)}),
            "none": VariantMetrics(accuracy=estimate(0.75), accuracy_by_kind={"count": estimate(0.5)}),
        },
        adaptive_minus_none=Difference(value=0.125, ci95=(0.05, 0.2), p_value=0.03125),
        score_coverage_spearman=0.8125,
        stage1_loss_by_level=[1.5, 0.75],
        captions_by_level=[
            CaptionLevel(level=1, precision=estimate(0.25), recall=estimate(0.125)),
            CaptionLevel(level=2, precision=estimate(0.625), recall=estimate(0.5)),
        ],
        levels=LevelStats(boundaries=[0.3], counts=[4, 4], mean_coverage=[0.25, 0.75]),
        runtime_s={"score": 1234.5},
        peak_memory_mb={"score": 100.0},
        config={},
        versions={},
    )


def test_captions(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aligngpt.experiments.artifacts import CaptionLevel, LevelCaptions

    row = CaptionLevel(level=1, precision=estimate(0.5), recall=estimate(0.25))
    result = LevelCaptions(inputs={}, num_levels=1, by_level=[row], examples=[])
    calls = record(monkeypatch, "aligngpt.experiments.level_captions.caption_by_level", result)
    words = ("synthetic", "captions", "--model", model, "--data", tmp_path, "--output", tmp_path / "out")
    done = invoke(*words)
    assert done.exit_code == 0, done.stderr
    assert (calls[0]["batch_size"], calls[0]["limit"]) == (100, 200)
    assert "0.250 (0.150 to 0.350)" in done.stdout
    assert json.loads(invoke(*words, "--json").stdout) == result.model_dump(mode="json")


def test_run_ends_with_the_results_and_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = make_summary()
    calls = record(monkeypatch, "aligngpt.experiments.demo.run_demo", summary)
    output = ("--output", tmp_path / "run")
    done = invoke("run", "synthetic", *output, "--finetune.learning-rate", "1e-5", "--pairs", "100")
    assert done.exit_code == 0, done.stderr
    assert (calls[0]["config"].finetune.learning_rate, calls[0]["config"].pairs) == (1e-5, 100)
    assert calls[0]["output"] == tmp_path / "run"
    for text in (
        "87.50 (77.50 to 97.50)",
        "adaptive minus none: 12.50 (5.00 to 20.00) points, p 0.031",
        "1.500",
        "0.125",
        "1,234",
        "0.812",
    ):
        assert text in done.stdout
    assert done.stdout.splitlines()[-1] == f"Report: {tmp_path / 'run' / 'report.html'}"
    assert json.loads(invoke("run", "synthetic", *output, "--json").stdout) == summary.model_dump(mode="json")
    assert invoke("run", "synthetic-smoke").exit_code == 0
    assert (calls[-1]["config"].pairs, calls[-1]["output"]) == (96, Path("runs/synthetic-smoke"))


def test_run_has_no_option_for_what_its_variants_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record(monkeypatch, "aligngpt.experiments.demo.run_demo", make_summary())
    shown = invoke("run", "--help").stdout
    assert "--pretrain.learning-rate" in shown and "--finetune.alignment-embeddings" in shown
    for name in ("pretrain.alignment", "pretrain.num-alignment-levels", "finetune.alignment"):
        assert f"--{name} " not in shown
        assert f"No such option '--{name}'" in invoke("run", "synthetic", f"--{name}", "8").stderr
    file = tmp_path / "mine.yaml"
    for text, message in (
        ("finetune:\n  alignment: local\n", "finetune.alignment: the run trains adaptive and none; remove this field"),
        ("num_level: 4\n", "field 'num_level' does not exist; did you mean 'num_levels'?"),
    ):
        file.write_text(text)
        done = invoke("run", file, "--output", tmp_path / "run")
        assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1
    done = invoke("run", "synthetic-smok")
    assert done.exit_code == 2 and "did you mean 'synthetic-smoke'?" in done.stderr
    file.write_text("num_levels: 4\npretrain:\n  num_alignment_levels: 4\n")
    assert invoke("run", file, "--output", tmp_path / "run").exit_code == 0
    assert calls[-1]["config"].finetune.num_alignment_levels == 4, "derived"
    done = invoke("run", file, "--output", tmp_path / "run", "--num-levels", "5")
    assert done.exit_code == 2
    assert "pretrain.num_alignment_levels: the run has num_levels 5; remove this field, got 4" in done.stderr


@pytest.mark.parametrize("option", ["pairs", "captioned", "threads"])
def test_an_invalid_config_creates_no_folder(tmp_path: Path, option: str) -> None:
    done = invoke("run", "synthetic", "--output", tmp_path / "run", f"--{option}", "0")
    assert done.exit_code == 2 and "greater than or equal to 1" in done.stderr
    assert not (tmp_path / "run").exists()


def test_report_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record(monkeypatch, "aligngpt.reporting.report_run", tmp_path / "report.html")
    assert invoke("report", "run", tmp_path).stdout == f"Report: {tmp_path / 'report.html'}\n"
    assert calls[0] == {"run": tmp_path, "output": None, "comparisons": []}
    assert json.loads(invoke("report", "run", tmp_path, "--json").stdout) == {"report": str(tmp_path / "report.html")}


def test_report_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aligngpt.reporting import DataReport

    page = tmp_path / "page.html"
    calls = record(monkeypatch, "aligngpt.reporting.report_data", DataReport(page, ("All pairs have a score.",)))
    words = ("report", "data", "--scores", tmp_path, "--output", page)
    levels = tmp_path / "levels.parquet"
    levels.touch()
    done = invoke(*words, "--levels", tmp_path, "--data", "shards/{0..9}.tar")
    assert done.stdout == f"All pairs have a score.\nReport: {page}\n", done.stderr
    expected = {"scores": tmp_path, "output": page, "levels": levels, "data": "shards/{0..9}.tar", "images": None}
    assert calls[0] == expected
    result = json.loads(invoke(*words, "--json").stdout)
    assert result == {"report": str(page), "insights": ["All pairs have a score."]}


def test_generate_writes_the_dataset(tmp_path: Path) -> None:
    sizes = ["--pairs", "4", "--conversations", "3", "--questions", "7", "--seed", "5"]
    done = invoke("synthetic", "generate", "--output", tmp_path / "data", *sizes, "--json")
    assert done.exit_code == 0, done.stderr
    info = json.loads(done.stdout)
    assert info | {"pairs": 4, "conversations": 3, "questions": 7, "seed": 5} == info
    assert len(json.loads((tmp_path / "data" / "pretrain.json").read_text())) == 4


def test_backbones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record(monkeypatch, "aligngpt.synthetic.backbones.train_backbones", None)
    done = invoke("synthetic", "backbones", "--output", tmp_path, "--seed", "3")
    assert done.stdout == f"Backbones: {tmp_path}\n", done.stderr
    assert (calls[0]["config"].seed, calls[0]["output"]) == (3, tmp_path)
