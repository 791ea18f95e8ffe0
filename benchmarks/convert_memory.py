"""Peak memory of `aligngpt convert` on a synthetic official checkpoint of several files.

    python -m benchmarks.convert_memory --gigabytes 2 --files 5 --output benchmarks/results/convert_memory.json

The checkpoint has random half-precision weights in the official names and forms. Each direction is a process of its
own, whose peak resident memory counts the pages mapped from the files as well. The bound is the largest file plus 1 GB.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from aligngpt.utils.io import versions, write_json
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
    for place in range(files):
        name = f"pytorch_model-{place + 1:05d}-of-{files:05d}.bin"
        state = {} if place else _parts_beside_the_layers()
        for layer in range(place * layers // files, (place + 1) * layers // files):
            state |= _layer(layer)
        torch.save(state, folder / name)
        weight_map |= dict.fromkeys(state, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return [(folder / name).stat().st_size for name in sorted(set(weight_map.values()))]


def _layer(number: int) -> dict[str, torch.Tensor]:
    shapes = {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (INTERMEDIATE, HIDDEN), "mlp.up_proj": (INTERMEDIATE, HIDDEN)}
    shapes |= {"mlp.down_proj": (HIDDEN, INTERMEDIATE)}
    state = {f"model.layers.{number}.{name}.weight": _random(*shape) for name, shape in shapes.items()}
    for name in ("input_layernorm", "post_attention_layernorm"):
        state[f"model.layers.{number}.{name}.weight"] = torch.ones(HIDDEN, dtype=torch.float16)
    return state


def _parts_beside_the_layers() -> dict[str, torch.Tensor]:
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    shapes |= {"mm_projector.0.weight": (HIDDEN, 24), "mm_projector.2.weight": (HIDDEN, HIDDEN)}
    shapes |= {"gated_weight_layer.mlp.0.weight": (256, 16), "gated_weight_layer.mlp.2.weight": (7, 256)}
    shapes |= {"align_indicators.indicator_embs": (8, HIDDEN)}
    state = {name: _random(*shape) for name, shape in shapes.items()}
    biases = {"mm_projector.0": HIDDEN, "mm_projector.2": HIDDEN, "gated_weight_layer.mlp.0": 256}
    state |= {f"{name}.bias": _random(size) for name, size in (biases | {"gated_weight_layer.mlp.2": 7}).items()}
    return state | {"model.norm.weight": torch.ones(HIDDEN, dtype=torch.float16)}


def _random(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, dtype=torch.float16).uniform_(-0.02, 0.02)


def measured(*arguments: str) -> dict[str, float]:
    """Run the command line and return its seconds and its peak resident memory in MB."""
    started, peak = time.monotonic(), 0
    process = subprocess.Popen([sys.executable, "-m", "aligngpt", *arguments], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _high_water(process.pid))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"aligngpt {' '.join(arguments)} failed with {process.returncode}")
    return {"seconds": round(time.monotonic() - started, 1), "peak_mb": round(peak / 1e6, 1)}


def _high_water(pid: int) -> int:
    """Peak resident bytes so far; the kernel's own count, unlike that of `wait4`, which begins with the parent's."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:  # just gone
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    """Make the checkpoint, convert it there and back, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--files", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="convert-memory-"))
    try:
        tower = official.save_tower(work / "tower")
        sizes = make_checkpoint(work / "official", tower, options.gigabytes, options.files)
        there = measured("convert", str(work / "official"), str(work / "model"), "--vision-tower", str(tower))
        back = measured("convert", str(work / "model"), str(work / "back"), "--to", "official")
    finally:
        shutil.rmtree(work)
    result: dict[str, Any] = {
        "checkpoint_mb": round(sum(sizes) / 1e6, 1),
        "largest_file_mb": round(max(sizes) / 1e6, 1),
        "bound_mb": round(max(sizes) / 1e6 + 1000, 1),
        "convert": there | {"within_bound": there["peak_mb"] <= max(sizes) / 1e6 + 1000},
        "to_official": back | {"within_bound": back["peak_mb"] <= max(sizes) / 1e6 + 1000},
        "versions": versions(),
    }
    print(json.dumps(result, indent=2))
    if options.output is not None:
        write_json(options.output, result)


if __name__ == "__main__":
    main()
