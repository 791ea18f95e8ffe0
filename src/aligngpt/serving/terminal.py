"""Chat in the terminal, with the alignment level as a command."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from aligngpt.data.images import check_header
from aligngpt.data.schema import BadImage
from aligngpt.inference.chat_session import ChatSession
from aligngpt.utils.progress import status

HELP = """\
/level          show the alignment setting
/level SETTING  set it: a level from 1, adaptive, global, local, average, none, weights, or default
/gate           show the gate weights of the last answer
/image FILE     add an image to the next question
/clear          clear the conversation
/exit           quit (or Ctrl-D); Ctrl-C interrupts an answer"""


def chat(
    model: str | Path, images: Sequence[str | Path], alignment: Any, max_new_tokens: int, temperature: float
) -> None:
    """Chat with a model until `/exit` or the end of the input.

    Args:
        model: Model folder, stage-1 checkpoint or hub name.
        images: Images of the first question.
        alignment: Initial alignment setting; the model's own by default.
        max_new_tokens: Maximum length of an answer.
        temperature: Sampling temperature; 0 means greedy decoding.
    """
    with suppress(ImportError):  # not on Windows
        import readline  # noqa: F401  gives `input` line editing and history

    with status(f"loading {model}"):
        session = ChatSession(model, images, alignment)
    terminal = _Terminal(session, max_new_tokens, temperature)
    terminal.show("/help lists the commands")
    while True:
        try:
            text = input("you: ").strip()
        except EOFError:
            terminal.console.print()
            return
        except KeyboardInterrupt:
            terminal.console.print()
            continue
        if text == "/exit":
            return
        if text.startswith("/"):
            terminal.run_command(*text.split(maxsplit=1))
        elif text:
            terminal.ask(text)


class _Terminal:
    """The commands of the chat and the state between two questions."""

    def __init__(self, session: ChatSession, max_new_tokens: int, temperature: float) -> None:
        self.session = session
        self.console = Console(highlight=False, soft_wrap=True)
        self._options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature}
        self._images: list[Path] = []  # of the next question

    def show(self, text: str, style: str = "dim") -> None:
        """Print a line that is not part of the conversation."""
        self.console.print(text, style=style, markup=False)

    def ask(self, text: str) -> None:
        """Print the answer to a question while it is generated; Ctrl-C interrupts it."""
        self.console.print("model: ", style="bold", end="")
        try:
            stream = partial(self.console.print, end="", markup=False)
            self.session.ask(text, images=self._images, stream=stream, **self._options)
        except KeyboardInterrupt:
            self.console.print()
            self.show("interrupted; question and answer are not part of the conversation")
        except ValueError as error:
            self.show(str(error), "red")
        else:
            self.console.print()
            self._images.clear()

    def run_command(self, name: str, value: str = "") -> None:
        """Run one command, such as `/level 3`."""
        if name == "/level":
            self._set_level(value)
        elif name == "/gate":
            weights = enumerate(self.session.gate_weights or (), start=1)
            shown = "  ".join(f"{level}: {weight:.3f}" for level, weight in weights)
            missing = "no gate weights: ask about an image with the setting adaptive or local"
            self.show(f"gate weights: {shown}" if shown else missing)
        elif name == "/image" and value:
            self._add_image(Path(value).expanduser())
        elif name == "/clear":
            self.session.reset()
            self._images.clear()
            self.show("conversation cleared")
        elif name == "/help":
            self.show(HELP)
        else:
            self.show(f"unknown command {name}; the commands are:\n{HELP}", "red")

    def _set_level(self, value: str) -> None:
        try:
            if value:
                self.session.set_alignment(None if value == "default" else value)
            self.show(f"alignment: {self.session.active_alignment}")
        except ValueError as error:
            self.show(str(error), "red")

    def _add_image(self, path: Path) -> None:
        try:
            check_header(path)
        except BadImage as error:
            self.show(f"{path}: {error}", "red")
        else:
            self._images.append(path)
            self.show(f"images of the next question: {', '.join(map(str, self._images))}")
