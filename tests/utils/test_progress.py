"""Progress where there is no terminal."""

from __future__ import annotations

import pytest

from aligngpt.utils import progress as module


def test_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 31.0, 40.0, 70.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    with module.progress("POPE", total=1300, done=100) as advance:
        for count, name in ((50, "POPE"), (260, "POPE"), (10, "GQA"), (380, "GQA")):
            advance(count, name)
    said, more = capsys.readouterr().err.splitlines()
    assert said == "aligngpt: POPE: 410 of 1,300, about 89 s left"
    assert more == "aligngpt: GQA: 800 of 1,300, about 50 s left"


def test_nothing_where_it_is_not_wanted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EVERY", 0.0)
    with module.progress("POPE", total=3, wanted=False) as advance:
        advance(3)
    assert capsys.readouterr().err == ""
    assert [module._duration(seconds) for seconds in (5, 99, 400, 7500)] == ["5 s", "99 s", "0 h 07 min", "2 h 05 min"]
