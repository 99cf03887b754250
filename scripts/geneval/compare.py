#!/usr/bin/env python3
"""Compares `scion geneval` with PyTorch on a small Mask2Former and a small CLIP of random weights.

    cargo build --features geneval-onnx
    python scripts/geneval/compare.py --scion target/debug/scion

Both models are written by export.py, Scion looks at random pictures with them, and its boxes, scores and colours are
compared with those that PyTorch, Pillow and torchvision give. Needs what export.py needs, and torchvision.
"""
import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import export
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms
from transformers import (CLIPConfig, CLIPModel, CLIPVisionModelWithProjection, Mask2FormerConfig,
                          Mask2FormerForUniversalSegmentation, SwinConfig)

SIDE, INNER = 48, 64
NAMES = [f"thing {index}" for index in range(12)]


def make_detector(folder):
    swin = SwinConfig(image_size=INNER, patch_size=4, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8],
                      window_size=4, out_features=["stage1", "stage2", "stage3", "stage4"])
    config = Mask2FormerConfig(backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32,
                               encoder_feedforward_dim=64, encoder_layers=2, decoder_layers=3, num_attention_heads=4,
                               dim_feedforward=64, num_queries=10, num_labels=len(NAMES))
    model = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        for parameter in model.class_predictor.parameters():
            parameter.mul_(40)  # otherwise all classes are equally likely
    model.save_pretrained(folder / "mask2former")


def make_clip(folder):
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, projection_dim=16)
    config = CLIPConfig(text_config=sizes | dict(vocab_size=600), projection_dim=16,
                        vision_config=sizes | dict(image_size=32, patch_size=8))
    CLIPModel(config).save_pretrained(folder / "clip")


def pictures(folder, count):
    """Random blots, each with a prompt of its own that asks for a colour."""
    generator = torch.Generator().manual_seed(1)
    for index in range(count):
        coarse = torch.rand(1, 3, 6, 6, generator=generator)
        planes = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)[0]
        samples = folder / "drawn" / f"{index:05}" / "samples"
        samples.mkdir(parents=True)
        pixels = (planes * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(samples / "0000.png")
        include = [{"class": name, "count": 1, "color": "red"} for name in NAMES]
        prompt = {"tag": "colors", "include": include, "prompt": f"picture {index}"}
        (samples.parent / "metadata.jsonl").write_text(json.dumps(prompt))


def color(encoder, texts, image, box, mask):
    """As evaluate_images.py of GenEval and clip_benchmark tell it."""
    grey = Image.new("RGB", image.size, color="#999")
    crop = Image.composite(image, grey, Image.fromarray(mask)).crop([round(side) for side in box])
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    resize = transforms.Resize(32, transforms.InterpolationMode.BICUBIC)
    prepare = transforms.Compose([resize, transforms.CenterCrop(32), transforms.ToTensor(),
                                  transforms.Normalize(mean, deviation)])
    features = torch.nn.functional.normalize(encoder(prepare(crop)[None]), dim=-1)
    directions = torch.nn.functional.normalize(texts, dim=-1).mean(1)
    return export.COLORS[int((features @ torch.nn.functional.normalize(directions, dim=-1).T).argmax())]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scion", required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    folder = Path(tempfile.mkdtemp())
    make_detector(folder)
    make_clip(folder)
    pictures(folder, 12)
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder / "mask2former")
    detector = export.Detector(model, SIDE, INNER).eval()
    export.export(detector, SIDE, folder / "detector.onnx", ["boxes", "scores", "labels", "masks"])
    encoder = export.Encoder(CLIPVisionModelWithProjection.from_pretrained(folder / "clip")).eval()
    export.export(encoder, 32, folder / "clip.onnx", ["features"])
    # Features of random texts: the text tower is not Scion's.
    export.save_file({name: torch.randn(10, 3, 16) for name in NAMES}, folder / "colors.safetensors")
    (folder / "names.txt").write_text("\n".join(NAMES))
    files = [f"--{option}={folder / name}" for option, name in
             [("detector", "detector.onnx"), ("classes", "names.txt"), ("colors", "clip.onnx"),
              ("color-texts", "colors.safetensors"), ("save-detections", "found.json")]]
    command = [arguments.scion, "--quiet", "geneval", "score", folder / "drawn", "--threshold=0.05", *files]
    subprocess.run(command, check=True)

    texts = load_file(folder / "colors.safetensors")
    found = json.loads((folder / "found.json").read_text())["images"]
    boxes = partial = colors = agreeing = 0
    worst = {"box": 0.0, "score": 0.0}
    for key, objects in sorted(found.items()):
        image = Image.open(folder / "drawn" / key)
        outputs = detector(torch.tensor(np.asarray(image)).permute(2, 0, 1)[None].float())
        expected = {}
        for box, score, label, mask in zip(*outputs):
            expected.setdefault(NAMES[int(label)], []).append((box.tolist(), float(score), mask.numpy() > 0.5))
        assert {name: len(entries) for name, entries in expected.items()} == {n: len(e) for n, e in objects.items()}
        for name, entries in objects.items():
            for (*box, score), (theirs, certainty, mask) in zip([entry[:5] for entry in entries], expected[name]):
                distance = max(abs(a - b) for a, b in zip(box, theirs))
                worst = {"box": max(worst["box"], distance), "score": max(worst["score"], abs(score - certainty))}
                boxes += 1
                partial += not mask.all()
            for entry, (theirs, _, mask) in zip(entries, expected[name]):
                if len(entry) == 6:
                    colors += 1
                    agreeing += entry[5] == color(encoder, texts[name], image, theirs, mask)
    differences = f"greatest difference {worst['box']} pixels; scores, {worst['score']:.1e}"
    print(f"{boxes} boxes, {partial} of masks that leave pixels out: {differences}")
    print(f"{agreeing} of {colors} colours agree")


if __name__ == "__main__":
    main()
