"""lmms-eval on local tasks in its own environment (`make lmms`): its answers equal those of our evaluation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lmms_eval", reason="lmms-eval has an environment of its own: make lmms")

import torch

from aligngpt.inference.batch_generation import GenerationSettings, generate_all
from aligngpt.inference.prompts import Prompt, build_prompt
from aligngpt.modeling.checkpoints import load_model
from aligngpt.modeling.processing import load_template
from aligngpt.serving.lmms_eval_model import AlignGPT
from tests import tiny

COUNT, LONGEST = 7, 12
ALONE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "1"}

TASK = """\
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
task: {name}
test_split: test
output_type: {output}
doc_to_visual: !function helpers.make_images
doc_to_text: question
doc_to_target: {target}
{more}
"""
GENERATE = """\
generation_kwargs: {until: ["K9"], max_new_tokens: %d, temperature: 0, do_sample: false}
process_results: !function helpers.right
metric_list:
  - {metric: right, aggregation: mean, higher_is_better: true}
"""
CHOOSE = """\
doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
HELPERS = """\
from PIL import Image

def make_images(doc):
    return [Image.open(path).convert("RGB") for path in doc["images"]]

def right(doc, results):
    return {"right": float(results[0] == doc["answer"])}
"""


def question(place: int) -> str:
    return "What is it?" + " Really?" * (place % 3)


def prompts(processor: Any, documents: list[dict[str, Any]]) -> list[Prompt]:
    return [build_prompt(processor, doc["question"], tuple(map(Path, doc["images"]))) for doc in documents]


def slow_loss(model: Any, processor: Any, doc: dict[str, Any], choice: str, gate_reads_all: bool = False) -> float:
    """The mean loss of one answer by itself."""
    prompt = prompts(processor, [doc])[0].text
    images = [tiny.make_image(int(Path(path).stem)) for path in doc["images"]]
    asked, whole = (processor(images=images, text=text, return_tensors="pt") for text in (prompt, prompt + choice))
    start = asked["input_ids"].shape[1]
    limit = {"prompt_length": start} if gate_reads_all else {}
    logits = model(**whole, **limit).logits[0].log_softmax(-1)
    ids = whole["input_ids"][0]
    return -torch.stack([logits[place - 1, ids[place]] for place in range(start, len(ids))]).mean().item()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, images, questions, and two tasks of lmms-eval about them.

    The label of every second question is what our runner answers, the others' labels are wrong. The right choice is the
    one of the least loss for all but the first question.
    """
    folder = tmp_path_factory.mktemp("lmms")
    bare = load_template("bare")
    template = folder / "template.jinja"  # without a space in front of an answer, which this model never writes
    template.write_text(bare.replace('answer_start -}}{{- " " -}}', "answer_start -}}"))
    assert template.read_text() != bare
    model, processor = tiny.build(folder / "bases", template=template)
    with torch.no_grad():  # it writes letters and digits alone, so that what it writes can be read and written again
        for word, token in processor.tokenizer.get_vocab().items():
            if not (len(word) == 1 and word.isascii() and word.isalnum()):
                model.language_model.lm_head.weight[token] = 0
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    model, processor = load_model(folder / "model")
    documents: list[dict[str, Any]] = []
    for place in range(COUNT):
        path = folder / f"{place}.png"
        tiny.make_image(place).save(path)
        shown = [str(path)] * (1 + place % 2)
        documents.append({"question": question(place), "images": shown, "choices": ["a", "no", "B"]})
    given = generate_all(model, processor, prompts(processor, documents), GenerationSettings(LONGEST))
    for place, (doc, ours) in enumerate(zip(documents, given, strict=True)):
        losses = [slow_loss(model, processor, doc, choice) for choice in doc["choices"]]
        best = min(range(3), key=losses.__getitem__)
        doc["ours"] = ours.text.split("K9")[0]
        doc["answer"] = doc["ours"] if place % 2 == 0 else "wrong"
        doc["gold"] = (best + (place == 0)) % 3
    (folder / "documents.json").write_text(json.dumps(documents))
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "helpers.py").write_text(HELPERS)
    data = folder / "documents.json"
    for name, output, target, more in (
        ("aligngpt_write", "generate_until", "answer", GENERATE % LONGEST),
        ("aligngpt_choose", "multiple_choice", "gold", CHOOSE),
    ):
        text = TASK.format(data=data, name=name, output=output, target=target, more=more)
        (tasks / f"{name}.yaml").write_text(text)
    return folder


def run(folder: Path, output: str, *more: str, model_args: str = "", processes: int = 1) -> dict[str, Any]:
    """The results of lmms-eval's own command."""
    scripts = Path(sys.executable).parent
    command = [str(scripts / "lmms-eval")]
    if processes > 1:
        command = [str(scripts / "torchrun"), "--standalone", "--nproc_per_node", str(processes), "-m", "lmms_eval"]
    command += ["eval", "--model", "aligngpt"]
    command += ["--model_args", f"pretrained={folder / 'model'}{model_args}", "--include_path", str(folder / "tasks")]
    command += ["--output_path", str(folder / output), "--device", "cpu", "--log_samples", *more]
    environment = os.environ | ALONE | {"HF_HOME": str(folder / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = list((folder / output).rglob("*results.json"))
    assert len(found) == 1, [*(folder / output).rglob("*")]
    return json.loads(found[0].read_text())


def samples(folder: Path, output: str, task: str) -> list[str]:
    """What the model wrote, in the order of the questions."""
    (path,) = (folder / output).rglob(f"*samples_{task}.jsonl")
    lines = sorted(map(json.loads, path.read_text().splitlines()), key=lambda line: line["doc_id"])
    return [line["filtered_resps"] for line in lines]


def test_results_are_those_of_our_own_answers(folder: Path) -> None:
    result = run(folder, "out", "--tasks", "aligngpt_write,aligngpt_choose", "--batch_size", "3")
    documents = json.loads((folder / "documents.json").read_text())
    ours = [doc["ours"] for doc in documents]
    assert samples(folder, "out", "aligngpt_write") == ours
    right = sum(doc["ours"] == doc["answer"] for doc in documents)
    assert right == 4
    assert result["results"]["aligngpt_write"]["right,none"] == pytest.approx(right / COUNT)
    assert result["results"]["aligngpt_choose"]["acc,none"] == pytest.approx((COUNT - 1) / COUNT)


def test_alignment_is_a_model_argument_and_processes_share_the_work(folder: Path) -> None:
    run(folder, "level", "--tasks", "aligngpt_write", model_args=",alignment=3", processes=2)
    documents = json.loads((folder / "documents.json").read_text())
    model, processor = load_model(folder / "model")
    given = generate_all(model, processor, prompts(processor, documents), GenerationSettings(LONGEST, 3))
    texts = [one.text.split("K9")[0] for one in given]
    assert samples(folder, "level", "aligngpt_write") == texts != [doc["ours"] for doc in documents]


class Request:
    """As much of lmms-eval's request as a model looks at."""

    def __init__(self, *args: Any) -> None:
        self.args = args


@pytest.fixture(scope="module")
def model(folder: Path) -> AlignGPT:
    model = AlignGPT(str(folder / "model"), batch_size=2, device="cpu")
    model.task_dict["t"] = {"test": json.loads((folder / "documents.json").read_text())}
    return model


def make_images(doc: dict[str, Any]) -> list[Any]:
    return [tiny.make_image(int(Path(path).stem)) for path in doc["images"]]


@pytest.mark.parametrize("gate_text", ["instruction", "all"])
def test_losses_by_the_batch_are_those_one_by_one(
    model: AlignGPT, gate_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.model.config, "gate_text", gate_text)
    documents = model.task_dict["t"]["test"]
    choices = ["a", " no", "a longer one"]
    requests = [
        Request(doc["question"], choice, make_images, place, "t", "test")
        for place, doc in enumerate(documents)
        for choice in choices
    ]
    slow = [
        slow_loss(model.model, model.processor, doc, choice.strip(), gate_text == "all")
        for doc in documents
        for choice in choices
    ]
    assert [one.text[0] for one in model.loglikelihood(requests)] == pytest.approx(slow, rel=1e-4)


def test_the_greedy_answer_is_recognized(model: AlignGPT) -> None:
    where = (make_images, 0, "t", "test")
    text = model.generate_until([Request("What?", {"max_new_tokens": 5}, *where)])[0]
    own, other = model.loglikelihood([Request("What?", text, *where), Request("What?", text[:4], *where)])
    assert own.text[1] and other.text[1]
    other = model.loglikelihood([Request("What?", text[:4] + "-", *where)])[0]
    assert not other.text[1]
    with pytest.raises(ValueError, match="loss of an empty answer"):
        model.loglikelihood([Request("What?", " ", *where)])


def test_settings_of_a_task(model: AlignGPT) -> None:
    where = (make_images, 0, "t", "test")
    long, short, cut, none = model.generate_until(
        [
            Request("What?", {"max_new_tokens": 12, "until": None}, *where),
            Request("What?", {"max_new_tokens": 2}, *where),
            Request("What?", {"max_new_tokens": 12, "until": "EVERY"}, *where),
            Request("What?", {"max_new_tokens": 12}, None, 0, "t", "test"),  # no image
        ]
    )
    assert long.startswith(short[:1]) and len(long) > len(short) and cut == long != none
    end = long[3:5]
    assert (
        model.generate_until([Request("What?", {"max_new_tokens": 12, "until": [end, "~"]}, *where)])[0]
        == (long[: long.index(end)].split("~")[0])
    )
    warm = {"max_new_tokens": 12, "temperature": 5.0, "do_sample": True}
    drawn = {tuple(model.generate_until([Request("What?", dict(warm), *where)])) for _ in range(3)}
    assert len(drawn) > 1


def test_placeholders_in_the_question_are_kept(model: AlignGPT) -> None:
    where = (make_images, 1, "t", "test")  # two images
    settings = {"max_new_tokens": 8}
    front, told, other, words = model.generate_until(
        [
            Request("What?", dict(settings), *where),
            Request("<image>\n<image>\nWhat?", dict(settings), *where),
            Request("<image>What<image>?", dict(settings), *where),
            Request("Is <image> one?", dict(settings), *where),
        ]
    )
    assert front == told and len({front, other, words}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": "auto"}, "batch_size is 'auto'; use an integer from 1"),
        ({"dtype": "float99"}, "dtype 'float99' is unknown"),
        ({"alignment": "sideways"}, "sideways"),
        ({"alignment": '"0.5,x"'}, "'0.5,x' is invalid"),
    ],
)
def test_wrong_arguments(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlignGPT(str(folder / "model"), device="cpu", **options)


def test_videos_are_refused(model: AlignGPT) -> None:
    with pytest.raises(ValueError, match="task t has a str; aligngpt supports images only"):
        model.generate_until([Request("What?", {}, lambda doc: ["a.mp4"], 0, "t", "test")])
    with pytest.raises(NotImplementedError, match="one round"):
        model.generate_until_multi_round([])
