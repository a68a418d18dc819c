"""Memory of whole processes: as `summary` states it before, and flat over many shapes."""

import json
import subprocess
import sys

import pytest

from tests.cli_run import ENVIRONMENT

COMMON = """
import json
import numpy as np
import striate as st

def memory(key):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(key))

rng = np.random.default_rng(0)

def images(n, h, w):
    return rng.standard_normal((n, 3, h, w), np.float32)
"""

PEAK = """
import sys
from tests.small_nets import small_net

training, checkpoint = (word == "True" for word in sys.argv[1:])
small_net().eval()(images(1, 8, 8))  # compiler, threads
before = memory("VmRSS")
net = st.models.create("resnet18", num_classes=10, stem="32").eval()
options = {"batch": 64, "training": training, "checkpoint": checkpoint}
x, y = images(64, 32, 32), rng.integers(0, 10, 64)
if training:
    step = st.compile_step(
        net, optimizer=st.optim.SGD(0.1, momentum=0.9), checkpoint=checkpoint
    )
for _ in range(2):
    step(x, y) if training else net(x)
measured = memory("VmHWM") - before
totals = st.summary(net, (3, 32, 32), **options).to_dict()["totals"]
print(json.dumps([totals["peak_memory"], measured]))
"""

FLAT = """
from tests.small_nets import small_net

net = small_net(32).eval()
step = st.compile_step(net)

def train(n, h, w):
    return step(images(n, h, w), np.zeros(n, np.int64))

for n in (1, 2, 64):
    net(images(n, 5, 4))
    net(images(n, 72, 72))
    if n > 1:
        train(n, 5, 4)
        train(n, 48, 48)
compiled, start = st.cache_info().compiled, memory("VmRSS")
largest = 0
for i in range(200):
    net(images(1, 4 + i % 67, 4 + 7 * i % 69))
    largest = max(largest, memory("VmRSS"))
for n in range(1, 65):
    net(images(n, 32, 32))
    largest = max(largest, memory("VmRSS"))
for i in range(40):
    train(2 + i, 8 + i, 48 - i)
    largest = max(largest, memory("VmRSS"))
print(json.dumps([st.cache_info().compiled - compiled, start, largest]))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]


def run(script, *arguments):
    """What a process of its own prints."""
    command = [sys.executable, "-c", COMMON + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("training", "checkpoint"), [(False, False), (True, False), (True, True)])
def test_the_peak_is_as_summary_says(training, checkpoint):
    run(PEAK, training, checkpoint)  # compiles the kernels: the compiler needs memory of its own
    stated, measured = run(PEAK, training, checkpoint)
    assert stated == pytest.approx(measured, rel=0.1)


def test_memory_is_flat_and_nothing_is_compiled_over_200_sizes_and_64_batches():
    compiled, start, largest = run(FLAT)
    assert compiled == 0
    assert largest < 1.05 * start
