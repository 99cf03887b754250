#!/usr/bin/env python3
"""The quickstart in f32 and in bf16, several seeds each: do results agree within the noise?

    cargo build --release
    python scripts/checks/precision.py [--seeds 3] [--work DIR] > results/precision/quickstart.log

Runs `recipes/quickstart.toml` once a seed and precision and prints, for every model, each run's Fréchet distance
and accuracy, the means of both precisions, and the difference of the means beside the spread between seeds. A run
that is already in the work folder is not repeated.
"""
import argparse
import json
import re
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRECISIONS = ["f32", "bf16"]


def run(program, work, precision, seed):
    folder = work / f"{precision}-{seed}"
    if not (folder / "results.json").exists():
        text = (ROOT / "recipes/quickstart.toml").read_text()
        text, found = re.subn(r'(?m)^precision = "[^"]*"', f'precision = "{precision}"', text)
        assert found == 1, "recipes/quickstart.toml has no precision"
        recipe = work / f"{precision}.toml"
        recipe.write_text(text)
        subprocess.run([program, "run", recipe, "--out", folder, "--seed", str(seed), "--quiet"],
                       check=True, stdout=subprocess.DEVNULL)
    results = json.loads((folder / "results.json").read_text())
    return {model["name"]: (model["frechet"]["value"], model["frechet"]["stderr"], model["accuracy"]) for model in results["models"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scion", default=ROOT / "target/release/scion", type=Path)
    parser.add_argument("--seeds", default=3, type=int)
    parser.add_argument("--work", default=ROOT / "runs/precision", type=Path)
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2: one seed has no spread")
    arguments.work.mkdir(parents=True, exist_ok=True)
    runs = {(p, s): run(arguments.scion, arguments.work, p, s)
            for s in range(1, arguments.seeds + 1) for p in PRECISIONS}
    for model in runs["f32", 1]:
        print(model)
        distances = {}
        for precision in PRECISIONS:
            found = [runs[precision, seed][model] for seed in range(1, arguments.seeds + 1)]
            distances[precision] = [value for value, _, _ in found]
            each = "  ".join(f"{value:6.2f} ± {error:4.2f} ({100 * accuracy:4.1f}%)" for value, error, accuracy in found)
            print(f"  {precision:5} {each}   mean {statistics.mean(distances[precision]):6.2f}")
        difference = statistics.mean(distances["bf16"]) - statistics.mean(distances["f32"])
        spread = statistics.mean(statistics.stdev(distances[p]) for p in PRECISIONS)
        print(f"  bf16 - f32 {difference:+.2f}; standard deviation between seeds {spread:.2f}")


if __name__ == "__main__":
    main()
