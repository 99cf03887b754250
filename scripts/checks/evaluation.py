#!/usr/bin/env python3
"""Fréchet distance and neighbourhoods at the size of a full evaluation, beside SciPy.

    cargo build --release
    python scripts/checks/evaluation.py [--scion target/release/scion]

Makes features of 50,000 samples and 10,000 references in 2,048 dimensions, the size of an ADM evaluation with Inception's
features, scores them with `scion evaluate` and compares. Prints seconds, peak memory and values; fails above 1e-6 relative
for the Fréchet distance, above one sample for precision and recall, or above the limits: 60 s and 2 GiB for the Fréchet
distance against stored statistics, 4 GiB for neighbourhoods. Needs NumPy and SciPy, 12 GB of memory for their side, and 1 GB of disk.
"""
import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.linalg

ROOT = Path(__file__).resolve().parents[2]
SAMPLES, REFERENCES, DIMENSIONS = 50_000, 10_000, 2_048


def features(rng, count, mix, shift):
    """Not negative and correlated, with variances that fall off, as pooled activations are."""
    normal = rng.standard_normal((count, DIMENSIONS), dtype=np.float32)
    return np.maximum(normal @ mix + shift, 0)


def statistics(x):
    x = x.astype(np.float64)
    return x.mean(axis=0), np.cov(x, rowvar=False)


def frechet(a, b):
    """As pytorch-fid computes it."""
    root = scipy.linalg.sqrtm(a[1] @ b[1])
    return float((a[0] - b[0]) @ (a[0] - b[0]) + np.trace(a[1]) + np.trace(b[1]) - 2 * np.trace(root).real)


def squared(a, b):
    return (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T


def blocks(x, y, reduce, rows=2_000):
    """Over blocks of rows of x: `reduce` of their squared distances to y, in f64."""
    y = y.astype(np.float64)
    return np.concatenate([reduce(squared(x[i:i + rows].astype(np.float64), y)) for i in range(0, len(x), rows)])


def precision_recall(samples, references, k=3):
    radius = lambda x: blocks(x, x, lambda d: np.partition(d, k, axis=1)[:, k])
    inside = lambda x, y, radii: blocks(x, y, lambda d: (d <= radii).any(axis=1)).mean()
    return inside(samples, references, radius(references)), inside(references, samples, radius(samples))


def evaluate(scion, *arguments):
    command = [str(scion), "evaluate", *map(str, arguments), "--json", "--quiet"]
    start = time.time()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    took, memory = time.time() - start, usage.ru_maxrss / 2**20
    print(f"scion evaluate {' '.join(Path(str(a)).name for a in arguments)}: {took:.1f} s, {memory:.2f} GiB")
    return json.loads(out), took, memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scion", default=ROOT / "target/release/scion", type=Path)
    scion = parser.parse_args().scion.resolve()
    rng = np.random.default_rng(7)
    mix = rng.standard_normal((DIMENSIONS, DIMENSIONS), dtype=np.float32)
    mix *= (0.3 / np.sqrt(np.arange(1, DIMENSIONS + 1, dtype=np.float32)))[:, None]
    samples = features(rng, SAMPLES, mix * 1.05, np.float32(0.2))
    references = features(rng, REFERENCES, mix, np.float32(0.25))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sample_file, reference_file, stored = (folder / name for name in ("samples.npz", "references.npz", "stats.npz"))
        np.savez(sample_file, features=samples)
        np.savez(reference_file, features=references)
        reference_stats = statistics(references)
        np.savez(stored, mu=reference_stats[0], sigma=reference_stats[1])
        one, fid_s, fid_memory = evaluate(scion, sample_file, "--reference", stored, "--metrics", "frechet")
        two, _, pr_memory = evaluate(scion, sample_file, "--reference", reference_file, "--metrics", "precision-recall")
    distance = one["frechet"]["value"]
    start = time.time()
    expected = frechet(statistics(samples), reference_stats)
    difference = abs(distance - expected) / expected
    print(f"Fréchet distance {distance:.9f}, SciPy {expected:.9f} in {time.time() - start:.1f} s, relative difference {difference:.1e}")
    start = time.time()
    found = [two[name]["value"] for name in ("precision", "recall")]
    numpy = precision_recall(samples, references)
    print(f"precision and recall {found}, NumPy {list(map(float, numpy))} in {time.time() - start:.1f} s")
    counts = [SAMPLES, REFERENCES]
    same = all(abs(a - b) * n <= 1.5 for a, b, n in zip(found, numpy, counts))
    return not (difference <= 1e-6 and same and fid_s < 60 and fid_memory < 2 and pr_memory < 4)


if __name__ == "__main__":
    raise SystemExit(main())
