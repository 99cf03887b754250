#!/usr/bin/env python3
"""Time and memory of token mixers by number of tokens, as a picture.

    scion bench --lengths 256,1024,4096,16384 --precision bf16 --runs 3 --json > lengths.jsonl
    python scripts/bench/plot_lengths.py lengths.jsonl docs/images/cost-by-tokens.png

Needs matplotlib. Also prints, for every operator, by what factor time and memory grow when tokens double.
"""
import json
import sys
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator


def main(log, picture):
    found = defaultdict(list)
    for line in open(log):
        entry = json.loads(line)
        found[entry["workload"]].append((entry["tokens"], entry["median_ms"], entry["peak_rss_bytes"] / 2**20))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for column, (axis, name) in enumerate(zip(axes, ["milliseconds a step", "peak memory, MiB"]), start=1):
        for operator, rows in found.items():
            axis.plot([row[0] for row in rows], [row[column] for row in rows], marker="o", label=operator)
            growth = "  ".join(f"{after[column] / before[column]:.2f}" for before, after in zip(rows, rows[1:]))
            print(f"{operator:22} {name:20} ×  {growth}")
        axis.set(xscale="log", yscale="log", xlabel="tokens", title=name)
        axis.set_xticks([row[0] for row in rows], [str(row[0]) for row in rows], fontsize=8)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(picture, dpi=130)


if __name__ == "__main__":
    main(*sys.argv[1:])
