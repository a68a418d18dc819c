"""Write PNG files of drawings anew with a palette of 128 colours, a third of their size.

usage: shrink_pictures.py FILE.png…
"""

import sys
from pathlib import Path

from PIL import Image

for name in sys.argv[1:]:
    with Image.open(name) as picture:
        small = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(name, optimize=True)
    print(f"{name}: {Path(name).stat().st_size // 1000} kB")
