"""Start-up of a net in fresh processes: cold (an empty kernel cache) and warm.

    python -m bench.startup [MODEL] [--repeat N]

The clock begins before Python starts and ends with the first result for one 224×224 image. A warm
start reads the net from a model file, as a service does. Python's bytecode is there, as it is in an
installed package, whatever PYTHONDONTWRITEBYTECODE says: without it every start compiles all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

IMPORT_NUMPY = "import numpy"
CREATE = "net = st.models.create({model!r}).eval()"
LOAD = "net = st.load({path!r})"
RUN = """
import json, numpy as np
import striate as st
{make}
net(np.zeros((1, 3, 224, 224), np.float32))
print(json.dumps([st.cache_info().compiled, st.cache_info().loaded, st.get_num_threads()]))
"""
SAVE = "import striate as st; st.save(st.models.create({model!r}), {path!r})"


def run(code: str, cache: Path) -> tuple[float, list[int]]:
    """Seconds that a new Python takes for `code`, and the numbers that it printed."""
    environment = {**os.environ, "STRIATE_CACHE": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    return seconds, json.loads(done.stdout) if done.stdout else []


def measure(model: str, repeat: int) -> dict[str, Any]:
    """Medians in seconds, and how many kernels there are."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, cache = str(folder / "net.safetensors"), folder / "warm"
        run(SAVE.format(model=model, path=path), cache)
        create = RUN.format(make=CREATE.format(model=model))
        load = RUN.format(make=LOAD.format(path=path))
        run(load, cache)
        cold = [run(create, folder / f"cold{i}") for i in range(max(1, repeat // 3))]
        numpy, warm, created = [], [], []
        for _ in range(repeat):
            numpy.append(run(IMPORT_NUMPY, cache)[0])
            warm.append(run(load, cache)[0])
            created.append(run(create, cache)[0])
        return {
            "numpy": statistics.median(numpy),
            "warm": statistics.median(warm),
            "created": statistics.median(created),
            "cold": statistics.median(seconds for seconds, _ in cold),
            "compiled": cold[0][1][0],
            "threads": cold[0][1][2],
        }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="resnet50")
    parser.add_argument("--repeat", type=int, default=7)
    arguments = parser.parse_args()
    found = measure(arguments.model, arguments.repeat)
    numpy = found["numpy"]
    rows = [
        ("Python and NumPy alone", numpy, 0.0),
        ("warm, from a model file", found["warm"], found["warm"] - numpy),
        ("warm, with new random weights", found["created"], found["created"] - numpy),
        ("cold, with new random weights", found["cold"], found["cold"] - numpy),
    ]
    print(
        f"{arguments.model}, first result for one image, {found['threads']} threads, "
        f"{found['compiled']} kernels compiled in a cold start"
    )
    print("\n| start | seconds | beside NumPy |\n|---|---:|---:|")
    for name, seconds, beside in rows:
        print(f"| {name} | {seconds:.2f} | {beside:.2f} |")


if __name__ == "__main__":
    main()
