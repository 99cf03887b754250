#!/usr/bin/env python3
"""Writes networks for `scion geneval score --detector … --colors …`, from models in transformers' layout.

    python scripts/geneval/export.py detector --model facebook/mask2former-swin-small-coco-instance --side 1024 \
        --out detector.onnx
    python scripts/geneval/export.py colors --model openai/clip-vit-large-patch14 --out clip.onnx \
        --texts colors.safetensors

MODEL is a folder or a name on the Hugging Face hub. Needs torch, transformers, scipy, onnx and safetensors.

`detector` takes a Mask2Former for instances and images of one size. What GenEval's detector does around the network is
part of the graph (mmdetection 2.x, `mask2former_r50_lsj_8x2_50e_coco.py` and `maskformer_fusion_head.py`): the shorter
side becomes 800 pixels and the longer at most 1333, pixels are normalised, sides padded to multiples of 32; the 100 best
pairs of query and class are kept, each scored by its class times the mean certainty of its mask, its box around the
mask. Unlike there, resized pixels are not rounded to 8 bits.

`colors` takes a CLIP. Its image tower becomes the encoder; its text tower reads the ten colours in three sentences for
each class of which a prompt asks the colour.
"""
import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

PROMPTS = Path(__file__).resolve().parents[2] / "assets" / "geneval" / "evaluation_metadata.jsonl"
COLORS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"]
TEMPLATES = ["a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object"]
SHORTER, LONGER, DIVISOR, KEPT = 800, 1333, 32, 100


class Detector(torch.nn.Module):
    """image [1, 3, side, side] of 0 to 255 to boxes [N, 4], scores [N], labels [N], masks [N, side, side]."""

    def __init__(self, model, side, shorter=SHORTER):
        super().__init__()
        self.model, self.side = model, side
        scale = min(shorter / side, LONGER / side)
        self.inner = int(side * scale + 0.5)
        self.padded = -(-self.inner // DIVISOR) * DIVISOR
        self.register_buffer("mean", torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1))

    def forward(self, image):
        pixels = self.resized(image, self.inner)
        padding = self.padded - self.inner
        pixels = F.pad((pixels - self.mean) / self.deviation, (0, padding, 0, padding))
        found = self.model(pixel_values=pixels)
        probabilities = found.class_queries_logits.softmax(-1)[0, :, :-1]
        classes = probabilities.shape[1]
        best, index = probabilities.flatten().topk(min(KEPT, probabilities.numel()))
        masks = self.resized(found.masks_queries_logits, self.padded)[:, :, :self.inner, :self.inner]
        masks = self.resized(masks, self.side)[0][torch.div(index, classes, rounding_mode="floor")]
        inside = (masks > 0).float()
        area = inside.flatten(1).sum(1)
        certainty = (masks.sigmoid() * inside).flatten(1).sum(1) / (area + 1e-6)
        return self.boxes(inside), best * certainty, index % classes, inside

    def resized(self, planes, side):
        return F.interpolate(planes, (side, side), mode="bilinear", align_corners=False)

    def boxes(self, inside):
        """Around masks; all zero where a mask is empty."""
        columns, rows = inside.amax(1), inside.amax(2)  # [N, side]
        places = torch.arange(self.side, dtype=torch.float32)
        edges = []
        for line in (columns, rows):
            first = torch.where(line > 0, places, float(self.side)).amin(1)
            last = torch.where(line > 0, places + 1, 0.0).amax(1)
            edges.append((torch.minimum(first, last), last))
        (left, right), (top, bottom) = edges
        return torch.stack([left, top, right, bottom], 1)


class Encoder(torch.nn.Module):
    """Prepared image [1, 3, S, S] to features [1, D]."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        return self.model(pixel_values=image).image_embeds


def export(module, side, path, outputs):
    image = torch.zeros(1, 3, side, side)
    with torch.no_grad():
        torch.onnx.export(module.eval(), (image,), path, input_names=["image"], output_names=outputs, opset_version=17,
                          dynamo=False)


def detector(arguments):
    from transformers import Mask2FormerForUniversalSegmentation

    model = Mask2FormerForUniversalSegmentation.from_pretrained(arguments.model)
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    print(f"{len(names)} classes, the first {names[:3]}; they must be COCO's 80 in order, or else be given as --classes")
    outputs = ["boxes", "scores", "labels", "masks"]
    export(Detector(model, arguments.side, arguments.shorter), arguments.side, arguments.out, outputs)


def colors(arguments):
    from transformers import AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    vision = CLIPVisionModelWithProjection.from_pretrained(arguments.model)
    export(Encoder(vision), vision.config.image_size, arguments.out, ["features"])
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    text = CLIPTextModelWithProjection.from_pretrained(arguments.model).eval()
    prompts = [json.loads(line) for line in arguments.prompts.read_text().splitlines()]
    names = {entry["class"] for prompt in prompts for entry in prompt["include"] if "color" in entry}
    features = {}
    for name in sorted(names):
        sentences = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
        tokens = tokenizer(sentences, padding=True, return_tensors="pt")
        with torch.no_grad():
            features[name] = text(**tokens).text_embeds.reshape(len(COLORS), len(TEMPLATES), -1).contiguous()
    save_file(features, arguments.texts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("detector")
    one.add_argument("--model", required=True)
    one.add_argument("--side", type=int, required=True, help="height and width of the images")
    one.add_argument("--shorter", type=int, default=SHORTER, help="what they are resized to")
    one.add_argument("--out", required=True)
    one.set_defaults(run=detector)
    two = commands.add_parser("colors")
    two.add_argument("--model", required=True)
    two.add_argument("--prompts", type=Path, default=PROMPTS, help="the prompts whose classes need colours")
    two.add_argument("--out", required=True)
    two.add_argument("--texts", required=True)
    two.set_defaults(run=colors)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
