"""Progress where there is no terminal."""

from __future__ import annotations

import pytest

from aligngpt.utils import progress as module


def test_lines_with_the_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 31.0, 40.0, 70.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    with module.progress("POPE", total=1300, done=100) as advance:
        for count, name in ((50, "POPE"), (260, "POPE"), (10, "GQA"), (380, "GQA")):
            advance(count, name)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "aligngpt: POPE: 410 of 1,300, about 89 s left"
    assert second == "aligngpt: GQA: 800 of 1,300, about 50 s left"


def test_an_unknown_total_shows_no_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 5.0, 5.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    with module.progress("scoring", total=None) as advance:
        advance(1200)
    assert capsys.readouterr().err == "aligngpt: scoring: 1,200 done in 5 s\n"


def test_disabled_progress_prints_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_LINE", 0.0)
    with module.progress("POPE", total=3, enabled=False) as advance, module.status("loading", enabled=False):
        advance(3)
    assert capsys.readouterr().err == ""
    durations = [module.format_duration(seconds) for seconds in (5, 99, 400, 7500)]
    assert durations == ["5 s", "99 s", "7 min", "2 h 05 min"]


def test_status_reports_only_slow_work(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with module.status("loading a"):
        pass
    monkeypatch.setattr(module, "FIRST_LINE", 0.01)
    with module.status("loading b"):
        module.time.sleep(0.2)
    assert capsys.readouterr().err == "aligngpt: loading b ...\n"
