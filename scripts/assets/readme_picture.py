#!/usr/bin/env python3
"""The picture at the top of README.md, from the sample grids of a quickstart.

    python scripts/assets/readme_picture.py scion-quickstart docs/images/quickstart.png
"""
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

MODELS = {"teacher": "teacher", "untrained": "operators swapped, untrained", "stage1": "after stage 1",
          "stage2": "after stage 2"}
GAP, HEAD = 24, 28


def main(run, out):
    grids = [Image.open(Path(run) / "samples" / f"{name}.png").convert("L") for name in MODELS]
    width, height = grids[0].size
    sheet = Image.new("L", (len(grids) * (width + GAP) - GAP, height + HEAD), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for i, (grid, caption) in enumerate(zip(grids, MODELS.values())):
        sheet.paste(grid, (i * (width + GAP), HEAD))
        draw.text((i * (width + GAP), 2), caption, fill=0, font=font)
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
