"""Make the embedded data set fashion-mnist-sample from the files of Fashion-MNIST.

    apt-get install dataset-fashion-mnist
    python scripts/make_fashion_sample.py

Takes the first 500 training and 100 test pictures of every class, in the order of the original
files, and writes them class after class, so that the labels need no file. The content is a
function of the original files only; the bytes on disk also depend on the release of liblzma.

Ways to store these 4,704,000 bytes, in bytes on disk: LZMA as it is here 2,237,948; with the
classes taking turns 2,249,468; after the predictors left 2,449,772, up 2,301,824, median
2,328,664; lossless WebP 2,288,086; PNG mosaic 2,346,975; bzip2 2,397,265; deflate 2,586,665.
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from striate.data.base import ArrayDataset
from striate.data.builtin import read_fashion_part
from striate.data.idx import write_idx

SOURCE = Path("/usr/share/datasets/fashion-mnist")
TARGET = Path(__file__).parents[1] / "src/striate/data/sets/fashion-mnist-sample"
PARTS = {"train": ("train", 500), "t10k": ("test", 100)}


def pick(whole: ArrayDataset, count: int) -> NDArray[np.uint8]:
    """Return the first `count` pictures of every class, class after class: (n, 28, 28)."""
    first = [np.flatnonzero(whole.labels == label)[:count] for label in range(len(whole.classes))]
    pictures: NDArray[np.uint8] = whole.raw(np.concatenate(first))[..., 0]
    return pictures


def pack(pictures: NDArray[np.uint8]) -> bytes:
    """Return the pictures as an idx file in an xz container."""
    return lzma.compress(write_idx(pictures), preset=9 | lzma.PRESET_EXTREME)


def make(source: Path, target: Path) -> None:
    """Write the two files of the sample."""
    target.mkdir(parents=True, exist_ok=True)
    for part, (name, count) in PARTS.items():
        data = pack(pick(read_fashion_part(source, part), count))
        path = target / f"{name}-images-idx3-ubyte.xz"
        path.write_bytes(data)
        print(f"{path}: {len(data):,} bytes")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the four idx files")
    parser.add_argument("--target", type=Path, default=TARGET, help="folder to write to")
    arguments = parser.parse_args()
    make(arguments.source, arguments.target)


if __name__ == "__main__":
    main()
