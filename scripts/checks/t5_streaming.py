#!/usr/bin/env python3
"""A T5 v1.1-XXL encoder of random bf16 weights (9.5 GB), and what encoding with one layer in memory takes.

    python scripts/checks/t5_streaming.py make FOLDER             # writes text_encoder/ and inputs.safetensors
    python scripts/checks/t5_streaming.py run FOLDER target/release/scion
    rm -r FOLDER

`run` prints the time and the peak of resident memory of `scion forward`, and checks that its output is finite.
results/text/ holds what this printed.
"""
import argparse
import json
import resource
import subprocess
import time
from pathlib import Path

import numpy as np

SIZES = dict(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, relative_attention_num_buckets=32,
             relative_attention_max_distance=128, layer_norm_epsilon=1e-6, feed_forward_proj="gated-gelu")
LAYERS_A_SHARD = 6


def shapes():
    """(name, shape) of every tensor, shard by shard."""
    width, inner, hidden = SIZES["d_model"], SIZES["num_heads"] * SIZES["d_kv"], SIZES["d_ff"]
    shards = [[("shared.weight", (SIZES["vocab_size"], width)), ("encoder.final_layer_norm.weight", (width,)),
               ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (32, SIZES["num_heads"]))]]
    for layer in range(SIZES["num_layers"]):
        if layer % LAYERS_A_SHARD == 0:
            shards.append([])
        block = f"encoder.block.{layer}.layer"
        shards[-1] += [(f"{block}.0.SelfAttention.{part}.weight", (inner, width)) for part in "qkv"]
        shards[-1] += [(f"{block}.0.SelfAttention.o.weight", (width, inner)), (f"{block}.0.layer_norm.weight", (width,)),
                       (f"{block}.1.DenseReluDense.wi_0.weight", (hidden, width)), (f"{block}.1.DenseReluDense.wi_1.weight", (hidden, width)),
                       (f"{block}.1.DenseReluDense.wo.weight", (width, hidden)), (f"{block}.1.layer_norm.weight", (width,))]
    return shards


def bf16(values):
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2")


def make(folder):
    """Every matrix is cut from one block of numbers, which costs no time and does not matter here."""
    encoder = folder / "text_encoder"
    encoder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    noise, ones = bf16(rng.standard_normal(1 << 24) / 64), bf16(np.ones(1 << 14))
    shards, weight_map = shapes(), {}
    for index, tensors in enumerate(shards, 1):
        name = f"model-{index:05}-of-{len(shards):05}.safetensors"
        header, end = {}, 0
        for tensor, shape in tensors:
            start, end = end, end + 2 * int(np.prod(shape))
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
            weight_map[tensor] = name
        text = json.dumps(header).encode()
        with open(encoder / name, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, shape in tensors:
                count, source = int(np.prod(shape)), ones if len(shape) == 1 else noise
                while count:
                    part = source[:count]
                    file.write(part.tobytes())
                    count -= len(part)
    (encoder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (encoder / "config.json").write_text(json.dumps({"architectures": ["T5EncoderModel"], "model_type": "t5", **SIZES}))
    ids, mask = rng.integers(0, SIZES["vocab_size"], (2, 300)), np.ones((2, 300), dtype=np.int64)
    mask[1, 20:] = 0
    header = {"ids": {"dtype": "I64", "shape": [2, 300], "data_offsets": [0, 4800]},
              "mask": {"dtype": "I64", "shape": [2, 300], "data_offsets": [4800, 9600]}}
    text = json.dumps(header).encode()
    (folder / "inputs.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + ids.tobytes() + mask.tobytes())
    print(f"{sum(path.stat().st_size for path in encoder.iterdir()) / 1e9:.2f} GB of weights")


def run(folder, program):
    output = folder / "out.safetensors"
    output.unlink(missing_ok=True)
    start = time.time()
    subprocess.run([program, "forward", folder / "text_encoder", "--inputs", folder / "inputs.safetensors", "--output", output], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20)
    print(f"2 texts of 300 tokens: {time.time() - start:.1f} s, peak resident memory {peak:.2f} GiB")
    data = output.read_bytes()
    out = np.frombuffer(data[8 + int.from_bytes(data[:8], "little"):], "<f4")
    assert out.size == 2 * 300 * 4096 and np.isfinite(out).all()
    print(f"standard deviation of the output {out.std():.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("program", nargs="?", default="target/release/scion")
    arguments = parser.parse_args()
    make(arguments.folder) if arguments.what == "make" else run(arguments.folder, arguments.program)


if __name__ == "__main__":
    main()
