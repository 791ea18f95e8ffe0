"""The terminal chat: commands, images, mistakes, and interrupted answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aligngpt.inference import chat_session
from aligngpt.inference.chat_session import ChatAnswer, ChatSession
from aligngpt.serving.terminal import HELP, chat
from tests import tiny

LEVELS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model and two images."""
    folder = tmp_path_factory.mktemp("terminal")
    for part in tiny.build(folder / "backbones", num_alignment_levels=LEVELS):
        part.save_pretrained(folder / "model")
    for seed in range(2):
        tiny.make_image(seed).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which no line is wrapped."""
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each question was, in which setting, with which images, and the number of messages after it."""
    calls: list[dict[str, Any]] = []
    original = ChatSession.ask

    def ask(self: ChatSession, prompt: str, *, images: Any, **options: Any) -> ChatAnswer:
        call = {"prompt": prompt, "alignment": self.alignment, "images": list(images)}
        answer = original(self, prompt, images=images, **options)
        calls.append({**call, "messages": len(self.messages), "shown": len(self.images)})
        return answer

    monkeypatch.setattr(ChatSession, "ask", ask)
    return calls


class Talk:
    """Types lines into a chat and collects what it prints; an exception in the place of a line is raised."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys

    def __call__(self, *lines: str | BaseException) -> str:
        typed: Iterator[str | BaseException] = iter(lines)

        def read(prompt: str = "") -> str:
            line = next(typed, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        self.monkeypatch.setattr("builtins.input", read)
        self.capsys.readouterr()
        chat(self.folder / "model", [self.folder / "0.png"], None, max_new_tokens=8, temperature=0.0)
        assert next(typed, None) is None, "the chat ended before all lines were typed"
        return self.capsys.readouterr().out


@pytest.fixture
def talk(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    return Talk(folder, monkeypatch, capsys)


def test_a_chat_is_a_session(talk: Talk, calls: list[dict[str, Any]]) -> None:
    text = talk("What?", "", "  /level 2 ", "Why?", "/clear", "/level default", "[red] So?", "/level", "/help", "/exit")
    seen = [(call["prompt"], call["alignment"], call["messages"]) for call in calls]
    assert seen == [("What?", None, 2), ("Why?", 2, 4), ("[red] So?", None, 2)]
    assert text.count(HELP) == 1 and text.count("model: ") == 3
    shown = [line for line in text.splitlines() if line.startswith(("alignment: ", "conversation"))]
    assert shown == ["alignment: 2", "conversation cleared", "alignment: adaptive", "alignment: adaptive"]


def test_images_belong_to_the_next_question(talk: Talk, folder: Path, calls: list[dict[str, Any]]) -> None:
    gone, other = folder / "gone.png", folder / "1.png"
    before = (f"/image {gone}", f"/image {other}", "A <align>?", "And this?", "Sure?")
    text = talk(*before, f"/image {other}", "/clear", "What?")
    # A question that fails keeps its image; /clear drops it.
    assert [(call["images"], call["shown"]) for call in calls] == [([other], 2), ([], 2), ([], 1)]
    assert f"{gone}: no such file" in text
    assert text.count(f"images of the next question: {other}") == 2


def test_mistakes_do_not_end_the_chat(talk: Talk) -> None:
    text = talk("/level 99", "/what", "What is <align>?", "What is <image>?", "/image", "What?")
    assert "alignment '99' is invalid; use one of" in text
    assert "unknown command /what" in text and text.count(HELP) == 2
    assert "turn 1, user: 'What is <align>?' contains <align>, which is reserved" in text
    assert text.count("model: ") == 3


def test_gate_weights(talk: Talk) -> None:
    text = talk("/gate", "What?", "/gate", "/level 2", "What?", "/gate")
    missing = "no gate weights: ask about an image with the setting adaptive or local"
    assert text.count(missing) == 2
    (line,) = (line for line in text.splitlines() if line.startswith("gate weights: "))
    weights = [float(part.split(":")[1]) for part in line.removeprefix("gate weights: ").split("  ")]
    assert len(weights) == LEVELS - 1 and sum(weights) == pytest.approx(1, abs=0.002)


def test_ctrl_c_interrupts_the_answer_and_not_the_chat(
    talk: Talk, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = chat_session.generate_tokens
    interrupts = iter([True, False, False])

    def generate_tokens(*args: Any, **options: Any) -> Any:
        if next(interrupts):
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(chat_session, "generate_tokens", generate_tokens)
    text = talk("What?", KeyboardInterrupt(), "Why?", "And?")
    assert "interrupted; question and answer are not part of the conversation" in text
    assert [(call["prompt"], call["messages"]) for call in calls] == [("Why?", 2), ("And?", 4)]
