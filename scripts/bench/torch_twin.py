#!/usr/bin/env python3
"""The workloads of `scion bench` in stock PyTorch.

    python torch_twin.py dit-train compile-bf16 [--runs 7] [--threads N]
    python torch_twin.py dit-train compile-bf16 --serve

Prints one JSON object a measurement: times of single steps in milliseconds and the process's peak memory. With
--serve it measures once for every line on standard input (the number of runs), so that compare.py can let it
take turns with Scion.

Variants: eager-f32, eager-bf16 (autocast), compile-f32, compile-bf16.
"""
import argparse
import json
import math
import resource
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

BATCH, TOKENS, WIDTH = 8, 256, 1152


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def split(self, x):
        n, t, d = x.shape
        return self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)

    def merge(self, y):
        return self.proj(y.transpose(1, 2).flatten(2))

    def forward(self, x):
        return self.merge(F.scaled_dot_product_attention(*self.split(x)))


class SlidingWindow(Attention):
    """Attention over |i - j| <= reach, by gathering each query's keys: the cost is linear in the tokens."""

    def __init__(self, width, heads, reach, tokens):
        super().__init__(width, heads)
        keys = torch.arange(tokens)[:, None] + torch.arange(-reach, reach + 1)
        self.register_buffer("outside", (keys < 0) | (keys >= tokens))
        self.register_buffer("keys", keys.clamp(0, tokens - 1))

    def forward(self, x):
        q, k, v = self.split(x)
        k, v = k[:, :, self.keys], v[:, :, self.keys]
        scores = (q[..., None, :] * k).sum(-1) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(self.outside, -math.inf).softmax(-1)
        return self.merge((weights[..., None] * v).sum(-2))


class HyenaX(nn.Module):
    def __init__(self, width, taps):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.conv = nn.Conv1d(3 * width, 3 * width, taps, padding=taps - 1, groups=3 * width)

    def forward(self, x):
        q, k, v = self.conv(self.inner(x).transpose(1, 2))[..., : x.shape[1]].chunk(3, dim=1)
        return self.outer((q * k * v).transpose(1, 2))


class Mlp(nn.Module):
    def __init__(self, width, ratio):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, ratio * width), nn.Linear(ratio * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.width = width
        self.attn, self.mlp, self.modulation = Attention(width, heads), Mlp(width, 4), nn.Linear(width, 6 * width)

    def forward(self, x, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(c))[:, None].chunk(6, dim=2)
        x = x + gate1 * self.attn(F.layer_norm(x, (self.width,), eps=1e-6) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(F.layer_norm(x, (self.width,), eps=1e-6) * (1 + scale2) + shift2)


class Dit(nn.Module):
    """DiT-S/2 for latents of 32 x 32, variance channels included."""

    def __init__(self, width=384, depth=12, heads=6, patch=2, channels=4, side=32, classes=1000):
        super().__init__()
        self.width, self.patch, self.channels = width, patch, channels
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (side // patch) ** 2, width), requires_grad=False)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, patch * patch * 2 * channels)
        self.register_buffer("frequencies", torch.exp(-math.log(10000) * torch.arange(128) / 128))

    def forward(self, x, t, y):
        angles = t[:, None] * self.frequencies
        c = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1)) + self.label(y)
        z = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            z = block(z, c)
        shift, scale = self.modulation(F.silu(c))[:, None].chunk(2, dim=2)
        z = self.head(F.layer_norm(z, (self.width,), eps=1e-6) * (1 + scale) + shift)
        n, grid, p = x.shape[0], x.shape[2] // self.patch, self.patch
        z = z.reshape(n, grid, grid, p, p, 2 * self.channels).permute(0, 5, 1, 3, 2, 4)
        return z.reshape(n, 2 * self.channels, grid * p, grid * p)


def step_of(workload, variant):
    bf16 = variant.endswith("bf16")
    prepare = torch.compile if variant.startswith("compile") else (lambda module: module)
    cast = lambda: torch.autocast("cpu", torch.bfloat16, enabled=bf16)  # noqa: E731

    def training(module, inputs, target, loss):
        run, optimiser = prepare(module), torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad], lr=1e-4, weight_decay=0
        )

        def step():
            optimiser.zero_grad()
            with cast():
                out = run(*inputs)
            loss(out.float(), target).backward()
            optimiser.step()

        return step

    if workload.startswith("dit"):
        net = Dit()
        inputs = (torch.randn(BATCH, 4, 32, 32), torch.arange(BATCH) * 120.0, torch.arange(BATCH) * 100)
        if workload == "dit-train":
            return training(net, inputs, torch.randn(BATCH, 8, 32, 32), F.mse_loss)
        run = prepare(net)

        def forward():
            with torch.no_grad(), cast():
                run(*inputs)

        return forward
    operator = {
        "distil-hyena-x": lambda: HyenaX(WIDTH, 4),
        "distil-swa": lambda: SlidingWindow(WIDTH, 16, 4, TOKENS),
        "distil-mlp-r3": lambda: Mlp(WIDTH, 3),
    }[workload]()
    return training(operator, (torch.randn(BATCH, TOKENS, WIDTH),), torch.randn(BATCH, TOKENS, WIDTH), F.l1_loss)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload")
    parser.add_argument("variant", choices=["eager-f32", "eager-bf16", "compile-f32", "compile-bf16"])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--serve", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    step = step_of(arguments.workload, arguments.variant)
    for _ in range(3):
        step()

    def measure(runs):
        times = []
        for _ in range(runs):
            started = time.perf_counter()
            step()
            times.append(1e3 * (time.perf_counter() - started))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"workload": arguments.workload, "variant": arguments.variant, "times_ms": times,
                          "peak_rss_bytes": peak}), flush=True)

    if not arguments.serve:
        return measure(arguments.runs)
    print(json.dumps({"ready": True, "torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        step()  # wakes the threads and the caches that the other side has taken over
        measure(int(line))


if __name__ == "__main__":
    main()
