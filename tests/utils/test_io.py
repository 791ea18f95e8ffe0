"""Files appear whole or not at all, and errors say where."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from aligngpt.utils.io import atomic_path, hash_file, hash_folder, read_json, versions, write_json


def test_atomic_file_replaces_the_old_one_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "result.txt"
    for text in ("first", "second"):
        with atomic_path(target) as temporary:
            assert temporary.parent == target.parent and temporary.suffix == ".txt"
            temporary.write_text(text)
            assert not target.exists() if text == "first" else target.read_text() == "first"
        assert target.read_text() == text
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_file_leaves_the_old_one_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_folder_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for name in ("a", "b"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
        assert [path.name for path in target.iterdir()] == [name]
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_path_needs_something_written(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"result\.txt: nothing was written"),
        atomic_path(tmp_path / "result.txt"),
    ):
        pass


def test_json_round_trip_keeps_order_and_letters(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"b": 1, "a": ["é", None, 0.1]})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": [\n    "é",\n    null,\n    0.1\n  ]\n}\n'
    assert read_json(path) == {"b": 1, "a": ["é", None, 0.1]}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_is_no_number(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match=r"x\.json: cannot be written as JSON"):
        write_json(tmp_path / "x.json", {"score": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b": }', r"x\.json:2:7: broken JSON"),
        (b"", r"x\.json:1:1: broken JSON"),
        (b'{"a":\n\n "\xff"}', r"x\.json:3: not UTF-8 text"),
        (b"[" * 100_000, r"x\.json: JSON nested too deeply|x\.json:1:\d+: broken JSON"),
    ],
)
def test_read_json_names_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_read_json_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"x\.json: no such file"):
        read_json(tmp_path / "x.json")


def test_read_json_skips_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "x.json") == [1]


def test_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert hash_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_hash_of_a_folder_sees_names_and_contents_of_matching_files_only(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, str]) -> str:
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        return hash_folder(tmp_path / name, ("*.json", "*.bin"))

    base = folder("base", {"a.json": "1", "b.bin": "2"})
    assert folder("same", {"b.bin": "2", "a.json": "1", "notes.md": "3"}) == base
    assert folder("content", {"a.json": "1", "b.bin": "3"}) != base
    assert folder("name", {"a.json": "1", "c.bin": "2"}) != base
    assert folder("swapped", {"a.json": "2", "b.bin": "1"}) != base
    with pytest.raises(FileNotFoundError, match=r"no file matches \*\.json or \*\.bin"):
        folder("none", {"notes.md": "3"})


def test_versions_names_python_and_the_packages() -> None:
    found = versions()
    assert set(found) == {"aligngpt", "python", "torch", "transformers"}
    assert found["python"].startswith("3.") and found["torch"][0].isdigit()


def test_data_modules_import_neither_torch_nor_transformers() -> None:
    modules = ("utils.io", "data.images", "data.schema", "curation.levels", "curation.scoring.store")
    imports = "; ".join(f"import aligngpt.{module}" for module in modules)
    code = f"import sys; {imports}; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
