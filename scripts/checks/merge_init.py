#!/usr/bin/env python3
"""How the merges of parallel pairs should start: every pair of the embedded teacher, each initialisation, some seeds.

    cargo build --release
    python scripts/checks/merge_init.py [--seeds 2] [--work DIR] > results/restructure/merge_init.log

Runs `recipes/parallel-pairs.toml` once a seed and initialisation, shortened as the first line printed says, and prints
of each run the loss on held-out activations, mean over the pairs, before and after stage 1, and the Fréchet distance and
accuracy of the untrained model and after both stages. A run that is already in the work folder is not repeated.
"""
import argparse
import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INITS = ["sum", "average", "random"]
CHANGES = {"distill": {"steps": 200}, "finetune": {"steps": 100, "ema": 0.95}, "sample": {"count": 1000}}


def shortened(init):
    text = (ROOT / "recipes/parallel-pairs.toml").read_text()
    text, found = re.subn(r'(?m)^merge-init = "[^"]*"', f'merge-init = "{init}"', text)
    assert found == 1, "recipes/parallel-pairs.toml has no merge-init"
    for section, fields in CHANGES.items():
        for field, value in fields.items():
            text, found = re.subn(rf"(?ms)(^\[{section}\].*?^{field} = )[\d.]+", rf"\g<1>{value}", text, count=1)
            assert found == 1, f"recipes/parallel-pairs.toml has no {section}.{field}"
    return text


def run(program, work, init, seed):
    folder, recipe = work / f"{init}-{seed}", work / f"{init}.toml"
    if not (folder / "results.json").exists():
        recipe.write_text(shortened(init))
        subprocess.run([program, "run", recipe, "--out", folder, "--seed", str(seed), "--quiet"],
                       check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "results.json").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scion", default=ROOT / "target/release/scion", type=Path)
    parser.add_argument("--seeds", default=2, type=int)
    parser.add_argument("--work", default=ROOT / "runs/merge_init", type=Path)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    print("; ".join(f"{section}.{field} = {value}" for section, fields in CHANGES.items() for field, value in fields.items()))
    print("init     seed  held-out loss: before, after   Fréchet distance (in the right class): untrained, stage 1, stage 2")
    for init in INITS:
        for seed in range(1, arguments.seeds + 1):
            results = run(arguments.scion, arguments.work, init, seed)
            pairs = results["stage1"]
            before, after = (sum(pair[key] for pair in pairs) / len(pairs) for key in ("val_first", "val_best"))
            models = {model["name"]: model for model in results["models"]}
            scores = "   ".join(
                f"{m['frechet']['value']:6.1f} ± {m['frechet']['stderr']:4.1f} ({100 * m['accuracy']:4.1f}%)"
                for m in (models[name] for name in ("untrained", "stage1", "stage2")))
            print(f"{init:8} {seed:4}       {before:8.4f} {after:8.4f}      {scores}", flush=True)


if __name__ == "__main__":
    main()
