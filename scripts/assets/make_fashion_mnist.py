#!/usr/bin/env python3
"""Makes the Fashion-MNIST files that are compiled into Scion.

    python scripts/assets/make_fashion_mnist.py FASHION_MNIST_DIR assets/fashion-mnist

FASHION_MNIST_DIR holds the four original files (Debian: /usr/share/datasets/fashion-mnist).

The training subset is stratified: within each class the images are ranked by the SHA-256 of
"scion-fashion-mnist:<index>", where <index> is the image's position in the training file, and the
first 600 are kept. The choice thus needs no random generator and can be redone in any language.
Kept images stay in their original order. The test files hold all 10,000 images.
"""
import gzip
import hashlib
import struct
import sys
from pathlib import Path

PER_CLASS = 600
# SHA-256 of the uncompressed files; packagers recompress them, so the archives differ by mirror.
ORIGINALS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def original(folder, name):
    data = gzip.decompress((folder / f"{name}.gz").read_bytes())
    digest = hashlib.sha256(data).hexdigest()
    if digest != ORIGINALS[name]:
        sys.exit(f"{folder / name}.gz: contents have SHA-256 {digest}, expected {ORIGINALS[name]}")
    return data


def rank(index):
    return hashlib.sha256(f"scion-fashion-mnist:{index}".encode()).digest()


def write(path, data):
    path.write_bytes(gzip.compress(data, compresslevel=9, mtime=0))
    print(f"{path}: {path.stat().st_size} bytes")


def main():
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    images, labels = original(source, "train-images-idx3-ubyte"), original(source, "train-labels-idx1-ubyte")
    pixels, classes = images[16:], labels[8:]

    keep = []
    for c in range(10):
        members = [i for i, label in enumerate(classes) if label == c]
        keep += sorted(members, key=rank)[:PER_CLASS]
    keep.sort()
    subset = b"".join(pixels[i * 784 : (i + 1) * 784] for i in keep)
    write(out / "train-6000-images.idx.gz", struct.pack(">4I", 0x803, len(keep), 28, 28) + subset)
    write(out / "train-6000-labels.idx.gz", struct.pack(">2I", 0x801, len(keep)) + bytes(classes[i] for i in keep))
    write(out / "test-images.idx.gz", original(source, "t10k-images-idx3-ubyte"))
    write(out / "test-labels.idx.gz", original(source, "t10k-labels-idx1-ubyte"))


if __name__ == "__main__":
    main()
