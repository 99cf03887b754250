#!/usr/bin/env python3
"""Scion against PyTorch on this machine, taking turns.

    cargo build --release
    python scripts/bench/compare.py [--rounds 5] [--runs 3] [--only dit-train,distil-swa] [--log results/bench/NAME.jsonl]

Needs PyTorch, and a machine that does nothing else. In every round each side of a workload is measured once:
`scion bench` in f32 and bf16, and four PyTorch variants, each kept ready in a process of its own. Prints medians over
all rounds and, for each precision of Scion, the ratio to the fastest PyTorch variant it is compared with: f32 with
both f32 ones, bf16 with all four. Above 1 Scion is faster. Every measurement is also written to the log.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TWIN = Path(__file__).with_name("torch_twin.py")
WORKLOADS = ["dit-forward", "dit-train", "distil-hyena-x", "distil-swa", "distil-mlp-r3"]
VARIANTS = ["eager-f32", "eager-bf16", "compile-f32", "compile-bf16"]


class Twin:
    def __init__(self, workload, variant):
        self.process = subprocess.Popen(
            [sys.executable, TWIN, workload, variant, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)
        self.about = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(map(str, self.process.args))} failed")
        return json.loads(line)

    def measure(self, runs):
        self.process.stdin.write(f"{runs}\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def scion(program, workload, precision, runs):
    command = [program, "bench", "--only", workload, "--precision", precision, "--runs", str(runs), "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return found | {"variant": f"scion-{precision}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scion", default=ROOT / "target/release/scion", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", type=lambda names: names.split(","), default=WORKLOADS)
    parser.add_argument("--log", type=Path)
    arguments = parser.parse_args()
    log = []

    def note(entry):
        log.append(entry)
        if arguments.log:
            arguments.log.parent.mkdir(parents=True, exist_ok=True)
            arguments.log.write_text("".join(json.dumps(e) + "\n" for e in log))

    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    note({"date": time.strftime("%Y-%m-%d"), "cpu": model, "cores": os.cpu_count(), "system": platform.platform(),
          "rounds": arguments.rounds, "runs": arguments.runs})
    print(f"{'workload':15} {'variant':13} {'median ms':>10} {'min':>9} {'max':>9} {'memory':>9}   ratio")
    for workload in arguments.only:
        twins = {variant: Twin(workload, variant) for variant in VARIANTS}
        note({"workload": workload} | twins["eager-f32"].about)
        times, memory = {}, {}
        for round in range(arguments.rounds):
            found = [scion(arguments.scion, workload, precision, arguments.runs) for precision in ("f32", "bf16")]
            found += [twin.measure(arguments.runs) for twin in twins.values()]
            for entry in found:
                note({"round": round} | entry)
                times.setdefault(entry["variant"], []).extend(entry["times_ms"])
                memory[entry["variant"]] = max(memory.get(entry["variant"], 0), entry["peak_rss_bytes"])
        for twin in twins.values():
            twin.close()
        medians = {variant: statistics.median(values) for variant, values in times.items()}
        peers = {"scion-f32": ["eager-f32", "compile-f32"], "scion-bf16": VARIANTS}
        for variant, values in times.items():
            ratio = ""
            if variant in peers:
                best = min(peers[variant], key=medians.get)
                ratio = f"{medians[best] / medians[variant]:5.2f} × {best}"
            print(f"{workload:15} {variant:13} {medians[variant]:10.1f} {min(values):9.1f} {max(values):9.1f} "
                  f"{memory[variant] / 2**20:6.0f} MiB   {ratio}", flush=True)


if __name__ == "__main__":
    main()
