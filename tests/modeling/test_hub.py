"""Model names: folders, bundled models, and hub names through a replaced `snapshot_download`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click
import huggingface_hub
import pytest
from huggingface_hub import errors

from aligngpt.cli.params import MODEL
from aligngpt.modeling.hub import resolve_model
from aligngpt.utils import models


class FakeHub:
    """`snapshot_download` of a hub that has the models of a folder; it records its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[str, str | None, list[str]]] = []
        self.error: Exception | None = None

    def __call__(self, name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.calls.append((name, revision, allow_patterns))
        if self.error:
            raise self.error
        target = self.folder.with_name("cache") / name
        target.mkdir(parents=True, exist_ok=True)
        for file in (self.folder / name).iterdir():
            if any(file.match(pattern) for pattern in allow_patterns):
                shutil.copy(file, target)
        return str(target)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    monkeypatch.chdir(tmp_path)
    return hub


def add(hub: FakeHub, name: str, *files: str) -> Path:
    """Add a model to the hub and return the folder it will be downloaded to."""
    (hub.folder / name).mkdir(parents=True)
    for file in files:
        (hub.folder / name / file).write_text("{}")
    return hub.folder.with_name("cache") / name


def test_a_hub_model_is_downloaded_with_safetensors_where_it_has_them(hub: FakeHub) -> None:
    folder = add(hub, "org/model", "config.json", "model.safetensors")
    assert resolve_model("org/model") == resolve_model(Path("org/model")) == folder
    assert resolve_model("org/model@v1.5") == folder
    assert [(name, revision) for name, revision, _ in hub.calls] == [("org/model", None)] * 2 + [("org/model", "v1.5")]
    assert all("*.safetensors" in patterns and "*.bin" not in patterns for _, _, patterns in hub.calls)
    pickled = add(hub, "org/old.model_2", "config.json", "pytorch_model.bin")
    assert resolve_model("org/old.model_2") == pickled
    assert [("*.bin" in patterns) for _, _, patterns in hub.calls[3:]] == [False, True]


def http_error(kind: Any) -> Exception:
    return kind.__new__(kind)  # its constructor needs the response of a server


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("org/gone", http_error(errors.RepositoryNotFoundError), "org/gone: no such folder, and no such model"),
        ("org/m@v9", http_error(errors.RevisionNotFoundError), "has no revision v9 of org/m"),
        ("org/gated", http_error(errors.GatedRepoError), "request access and run `hf auth login`"),
        ("org/m", errors.LocalEntryNotFoundError("x"), "not in the local cache, and the Hugging Face Hub cannot be"),
        ("org/m", errors.OfflineModeIsEnabled("x"), "pass a folder or go online"),
        ("org/m", OSError("no\nroute"), "cannot be downloaded from the Hugging Face Hub: no route"),
    ],
)
def test_a_failed_download_is_one_line(hub: FakeHub, name: str, error: Exception, message: str) -> None:
    hub.error = error
    with pytest.raises(FileNotFoundError, match=message) as raised:
        resolve_model(name)
    assert "\n" not in str(raised.value)
    assert len(hub.calls) == 1


def test_offline_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="org/model: not in the local cache"):
        resolve_model("org/model")


@pytest.mark.parametrize("name", ["gone", "./gone/model", "/gone/model", "~/gone", "a/b/c", "models/gone", "org/"])
def test_a_path_that_does_not_exist_never_reaches_the_hub(hub: FakeHub, name: str) -> None:
    Path("models").mkdir()
    with pytest.raises(FileNotFoundError, match="no such model folder; pass a folder, a bundled model"):
        resolve_model(name)
    assert hub.calls == []


def test_bundled_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folder in models.BUNDLED_MODELS.items():
        assert resolve_model(name) == folder and (folder / "config.json").is_file()
    monkeypatch.setitem(models.BUNDLED_MODELS, "synthetic-clip", tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="run `aligngpt synthetic backbones`"):
        resolve_model("synthetic-clip")


def test_the_command_line_checks_folders_and_passes_hub_names_on(hub: FakeHub, tmp_path: Path) -> None:
    assert MODEL.convert("org/model", None, None) == "org/model"
    assert MODEL.convert("synthetic-llm", None, None) == models.BUNDLED_MODELS["synthetic-llm"]
    with pytest.raises(click.BadParameter, match="no such model folder"):
        MODEL.convert("gone", None, None)
    with pytest.raises(click.BadParameter, match=r"is not a model folder; config.json is missing"):
        MODEL.convert(str(tmp_path), None, None)
    assert hub.calls == []


def test_the_name_of_a_model_folder(tmp_path: Path) -> None:
    cached = tmp_path / "models--openai--clip-vit-large-patch14" / "snapshots" / "0123abc"
    assert models.name_model(cached) == "clip-vit-large-patch14"
    assert models.name_model(models.BUNDLED_MODELS["synthetic-clip"]) == "synthetic-clip"
    assert models.name_model(tmp_path / "snapshots" / "mine") == "mine"
    assert models.name_model(tmp_path / "mine" / ".." / "other") == "other"
