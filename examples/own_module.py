"""A network of one's own with a residual connection, trained by one native program a step.

usage: python own_module.py [STEPS]
"""

import sys

import numpy as np

import striate as st
import striate.functional as F
from striate import nn


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding="same", bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(x + self.bn(self.conv(x)))


st.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(), Residual(16), Residual(16),
    nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * 4 * 4, 10),
)  # fmt: skip
clothes = st.data.load("fashion-mnist-sample")
step = st.compile_step(net, loss="cross_entropy", optimizer=st.optim.Adam(lr=0.002))
rng = np.random.default_rng(0)
for i in range(int(sys.argv[1]) if len(sys.argv) > 1 else 400):
    loss = step(*clothes.train.load(rng.integers(0, len(clothes.train), 64)))
    if i % 50 == 0:
        print(f"step {i}: loss {loss:.3f}")

x, y = clothes.test.load(range(len(clothes.test)))
print(f"test accuracy {(net.eval()(x).argmax(1) == y).mean():.1%}")
