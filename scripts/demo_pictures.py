"""Write a few test pictures of fashion-mnist-sample as PNG files.

usage: python demo_pictures.py FOLDER [COUNT]      the name of a file says what it shows
"""

import sys
from pathlib import Path

from PIL import Image

from striate.data import load

folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10
folder.mkdir(parents=True, exist_ok=True)
clothes = load("fashion-mnist-sample")
for i, picture in enumerate(clothes.test.raw(range(count))):
    shows = clothes.classes[clothes.test.labels[i]].replace("/", "-").replace(" ", "-")
    Image.fromarray(picture[:, :, 0]).save(folder / f"{i:02}-{shows}.png")
