#!/usr/bin/env python3
"""Compares the locality in a file of exported attention with what NumPy makes of the attention itself.

    scion analyze embedded --out analysis --export-attention attention.safetensors
    python scripts/checks/locality.py attention.safetensors

Of every block, `block.<i>` [N,H,T,T] gives L_k and the mean distance on the grid of tokens by the definitions; beside them the
file holds what Scion found, as `locality.<i>` [N,T] and `distance.<i>` [N]. Prints the largest difference, that of distances above 1 relative; fails
above 1e-6.
"""
import sys

import numpy as np
from safetensors import safe_open


def main(path):
    worst, checked = 0.0, 0
    with safe_open(path, "numpy") as file:
        for name in filter(lambda name: name.startswith("block."), file.keys()):
            block = name.removeprefix("block.")
            attention = file.get_tensor(name).astype(np.float64).mean(axis=1)
            images, tokens, _ = attention.shape
            i, j = np.indices((tokens, tokens))
            curve = [np.where(abs(i - j) <= k, attention, 0).sum(axis=(1, 2)) / tokens for k in range(tokens)]
            differences = [np.stack(curve, axis=1) - file.get_tensor(f"locality.{block}")]
            side = round(tokens**0.5)
            if side * side == tokens:
                step = np.hypot(i // side - j // side, i % side - j % side)
                distance = (attention * step).sum(axis=(1, 2)) / tokens
                differences.append((distance - file.get_tensor(f"distance.{block}")) / distance.clip(1))
            difference = max(abs(d).max() for d in differences)
            worst = np.maximum(worst, difference)  # keeps NaN
            print(f"block {block}: {images} passes, {tokens} tokens, largest difference {difference:.1e}")
            checked += 1
    print(f"largest difference {worst:.1e} in {checked} blocks")
    return not (checked > 0 and worst <= 1e-6)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
