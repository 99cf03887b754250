#!/usr/bin/env python3
"""A DiT-XL/2 of random weights made with the original code, and how far Scion's output is from its own.

    python scripts/checks/xl2.py make --dit-repo ../DiT FOLDER       # writes xl2.pt (2.7 GB), inputs, expected output
    scion forward FOLDER/xl2.pt --inputs FOLDER/inputs.safetensors --output FOLDER/scion.safetensors
    python scripts/checks/xl2.py compare FOLDER

results/xl2/ holds what this printed, with times and memory.
"""
import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def make(folder, dit_repo):
    sys.path.insert(0, str(dit_repo))
    from models import DiT_models

    torch.manual_seed(0)
    model = DiT_models["DiT-XL/2"](input_size=32, num_classes=1000).eval()
    # The original initialisation makes every block the identity and the output zero.
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.02)
    inputs = {"x": torch.randn(2, 4, 32, 32), "t": torch.tensor([10, 900]), "y": torch.tensor([3, 1000])}
    with torch.no_grad():
        out = model(**inputs)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "xl2.pt")
    save_file(inputs, folder / "inputs.safetensors")
    save_file({"out": out.contiguous()}, folder / "expected.safetensors")
    print(f"{sum(p.numel() for p in model.parameters())} parameters")


def compare(folder):
    expected, found = (load_file(folder / name)["out"] for name in ("expected.safetensors", "scion.safetensors"))
    print(f"relative error {((found - expected).norm() / expected.norm()).item():.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dit-repo", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "make":
        make(arguments.folder, arguments.dit_repo)
    else:
        compare(arguments.folder)


if __name__ == "__main__":
    main()
