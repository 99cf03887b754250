#!/usr/bin/env python3
"""A T5 v1.1-XXL encoder of random bf16 weights (9.5 GB), and what encoding with one layer in memory takes.

    python scripts/checks/t5_streaming.py make FOLDER             # writes text_encoder/ and inputs.safetensors
    python scripts/checks/t5_streaming.py run FOLDER target/release/scion
    python scripts/checks/t5_streaming.py compare FOLDER          # needs transformers
    rm -r FOLDER

`run` prints the time and the peak of resident memory of `scion forward`, `compare` how far its output is from that of
transformers, whose layers are loaded one at a time as well, for the shorter text. results/text/ holds what this printed.
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
    print(f"two texts of 300 tokens: {time.time() - start:.1f} s, peak resident memory {peak:.2f} GiB")


def compare(folder):
    import torch
    from safetensors import safe_open
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Block, T5LayerNorm

    torch.set_num_threads(2)
    encoder = folder / "text_encoder"
    weight_map = json.loads((encoder / "model.safetensors.index.json").read_text())["weight_map"]

    def read(name):
        with safe_open(encoder / weight_map[name], "pt") as file:
            return file.get_tensor(name).float()

    def load(module, prefix):
        module.load_state_dict({name: read(f"{prefix}.{name}") for name in module.state_dict()})
        return module.eval()

    with safe_open(folder / "inputs.safetensors", "pt") as file:
        ids = file.get_tensor("ids")[1, : int(file.get_tensor("mask")[1].sum())]
    config = T5Config(**SIZES, attn_implementation="eager")
    states, bias = read("shared.weight")[ids][None], None
    with torch.no_grad():
        for layer in range(SIZES["num_layers"]):
            block = load(T5Block(config, has_relative_attention_bias=layer == 0, layer_idx=layer), f"encoder.block.{layer}")
            states, bias, _ = block(states, position_bias=bias)
        states = load(T5LayerNorm(config.d_model, config.layer_norm_epsilon), "encoder.final_layer_norm")(states)[0]
    with safe_open(folder / "out.safetensors", "pt") as file:
        found = file.get_tensor("out")[1, : len(ids)]
    print(f"{len(ids)} tokens: largest difference over largest value {((found - states).abs().max() / states.abs().max()).item():.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "run", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("program", nargs="?", default="target/release/scion")
    arguments = parser.parse_args()
    if arguments.what == "make":
        make(arguments.folder)
    elif arguments.what == "run":
        run(arguments.folder, arguments.program)
    else:
        compare(arguments.folder)


if __name__ == "__main__":
    main()
