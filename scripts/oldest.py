"""Print the oldest release of each dependency in pyproject.toml as a pip constraint.

Reads the file as text: a fresh Python 3.10 has no TOML reader.
"""

import re
from pathlib import Path

text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
dependencies = text.partition("\ndependencies = [")[2].partition("\n]")[0]
for name, lowest in re.findall(r'"([A-Za-z0-9_-]+)>=([0-9.]+)', dependencies):
    print(f"{name}=={lowest}")
