"""Peak memory of `aligngpt convert` on a synthetic official checkpoint of several files.

    python -m benchmarks.convert_memory --gigabytes 2 --files 5 --output benchmarks/results/convert_memory.json

The checkpoint has random half-precision weights under the official names. Each direction runs in its own process, whose
peak resident memory includes pages mapped from the files. The bound is the largest file plus 1 GB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from aligngpt.utils.io import versions, write_json
from benchmarks.processes import read_peak_resident_set
from tests import official

HIDDEN, INTERMEDIATE, VOCABULARY = 2048, 5504, 600
LAYER_BYTES = 2 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE)


def make_checkpoint(folder: Path, tower: Path, gigabytes: float, files: int) -> list[int]:
    """Write the checkpoint and return the bytes of each of its files."""
    layers = max(files, round(gigabytes * 1e9 / LAYER_BYTES))
    official.save_checkpoint(folder, tower, vocabulary=VOCABULARY)
    (folder / "pytorch_model.bin").unlink()
    fields = json.loads((folder / "config.json").read_text())
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": layers, "head_dim": 128}
    sizes |= {"num_attention_heads": HIDDEN // 128, "num_key_value_heads": HIDDEN // 128}
    (folder / "config.json").write_text(json.dumps(fields | sizes))
    weight_map: dict[str, str] = {}
    for index in range(files):
        name = f"pytorch_model-{index + 1:05d}-of-{files:05d}.bin"
        state = {} if index else _make_other_modules()
        for layer in range(index * layers // files, (index + 1) * layers // files):
            state |= _make_layer(layer)
        torch.save(state, folder / name)
        weight_map |= dict.fromkeys(state, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return [(folder / name).stat().st_size for name in sorted(set(weight_map.values()))]


def _make_layer(number: int) -> dict[str, torch.Tensor]:
    shapes = {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (INTERMEDIATE, HIDDEN), "mlp.up_proj": (INTERMEDIATE, HIDDEN)}
    shapes |= {"mlp.down_proj": (HIDDEN, INTERMEDIATE)}
    state = {f"model.layers.{number}.{name}.weight": _sample_weight(*shape) for name, shape in shapes.items()}
    for name in ("input_layernorm", "post_attention_layernorm"):
        state[f"model.layers.{number}.{name}.weight"] = torch.ones(HIDDEN, dtype=torch.float16)
    return state


def _make_other_modules() -> dict[str, torch.Tensor]:
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    shapes |= {"mm_projector.0.weight": (HIDDEN, 24), "mm_projector.2.weight": (HIDDEN, HIDDEN)}
    shapes |= {"gated_weight_layer.mlp.0.weight": (256, 16), "gated_weight_layer.mlp.2.weight": (7, 256)}
    shapes |= {"align_indicators.indicator_embs": (8, HIDDEN)}
    state = {name: _sample_weight(*shape) for name, shape in shapes.items()}
    biases = {"mm_projector.0": HIDDEN, "mm_projector.2": HIDDEN, "gated_weight_layer.mlp.0": 256}
    state |= {f"{name}.bias": _sample_weight(size) for name, size in (biases | {"gated_weight_layer.mlp.2": 7}).items()}
    return state | {"model.norm.weight": torch.ones(HIDDEN, dtype=torch.float16)}


def _sample_weight(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, dtype=torch.float16).uniform_(-0.02, 0.02)


def measure_command(*arguments: str) -> dict[str, float]:
    """Run a command and return its seconds and peak resident memory in MB."""
    started, peak = time.monotonic(), 0
    process = subprocess.Popen([sys.executable, "-m", "aligngpt", *arguments], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, read_peak_resident_set(process.pid))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"aligngpt {' '.join(arguments)} failed with {process.returncode}")
    return {"seconds": round(time.monotonic() - started, 1), "peak_mb": round(peak / 1e6, 1)}


def main() -> None:
    """Write the checkpoint, convert it in both directions, and print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--files", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="convert-memory-"))
    try:
        tower = official.save_tower(work / "tower")
        sizes = make_checkpoint(work / "official", tower, options.gigabytes, options.files)
        model = str(work / "model")
        from_official = measure_command(
            "convert", str(work / "official"), "--output", model, "--vision-tower", str(tower)
        )
        to_official = measure_command("convert", model, "--output", str(work / "back"), "--to", "official")
    finally:
        shutil.rmtree(work)
    result: dict[str, Any] = {
        "checkpoint_mb": round(sum(sizes) / 1e6, 1),
        "largest_file_mb": round(max(sizes) / 1e6, 1),
        "bound_mb": round(max(sizes) / 1e6 + 1000, 1),
        "convert": from_official | {"within_bound": from_official["peak_mb"] <= max(sizes) / 1e6 + 1000},
        "to_official": to_official | {"within_bound": to_official["peak_mb"] <= max(sizes) / 1e6 + 1000},
        "versions": versions(),
    }
    print(json.dumps(result, indent=2))
    if options.output is not None:
        write_json(options.output, result)


if __name__ == "__main__":
    main()
