"""A conversation at the terminal, with the alignment level as a dial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from aligngpt.data.images import BadImage, check_header
from aligngpt.inference.chat_session import ChatSession

HELP = "/level N|adaptive|global|...: turn the dial   /image FILE: show another   /reset: start over   /help   /exit"


def chat(model: str | Path, image: str | Path | None, alignment: Any, max_new_tokens: int, temperature: float) -> None:
    """Talk with a model until `/exit` or the end of the input.

    Args:
        model: Model folder.
        image: The image to talk about, or none.
        alignment: The setting to begin with, the model's own by default.
        max_new_tokens: Longest answer.
        temperature: 0 takes the likeliest token.
    """
    console = Console(highlight=False)
    session = ChatSession(model, [image] if image else [], alignment)
    console.print(HELP, style="dim", markup=False)
    shown: list[Path] = []  # images for the next question
    while True:
        try:
            said = console.input("[bold]you:[/bold] ").strip()
        except EOFError:
            console.print()
            return
        if said == "/exit":
            return
        if said.startswith("/"):
            _command(session, said, shown, console)
        elif said:
            console.print("model: ", style="bold", end="")
            try:
                session.ask(
                    said,
                    images=shown,
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    stream=lambda text: console.print(text, end="", markup=False),
                )
                console.print()
                shown.clear()
            except ValueError as error:
                console.print(str(error), style="red", markup=False)


def _command(session: ChatSession, said: str, shown: list[Path], console: Console) -> None:
    name, _, value = said.partition(" ")
    if name == "/reset":
        session.reset()
        shown.clear()
        console.print("forgotten", style="dim")
    elif name == "/level":
        try:
            session.set_alignment(value.strip() or None)
            console.print(f"alignment: {value.strip() or session.model.config.alignment}", style="dim", markup=False)
        except ValueError as error:
            console.print(str(error), style="red", markup=False)
    elif name == "/image" and value.strip():
        _show(Path(value.strip()), shown, console)
    else:
        console.print(HELP, style="dim", markup=False)


def _show(path: Path, shown: list[Path], console: Console) -> None:
    try:
        check_header(path)
    except BadImage as error:
        console.print(f"{path}: {error}", style="red", markup=False)
    else:
        shown.append(path)
        console.print(f"with the next question: {', '.join(map(str, shown))}", style="dim", markup=False)
