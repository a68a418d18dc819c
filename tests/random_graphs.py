"""Random graphs of maps, broadcasts, reductions, convolutions and views, for hypothesis."""

import numpy as np
from hypothesis import strategies as st

from striate.graph import Trace
from striate.graph.ops.conv import Conv2d
from striate.graph.ops.eltwise import m, select
from striate.graph.ops.reduce import Reduce
from striate.graph.ops.shape import Broadcast, Flip
from striate.graph.value import Param

IMAGE = (2, 3, 4, 5)
AXES = [(0, 2, 3), (1,), (2, 3), (0, 1, 2, 3), (3,)]


def _maps(a, b):
    return [
        lambda: a + b,
        lambda: a - b,
        lambda: a * b,
        lambda: m("max", a, b),
        lambda: m("relu", a),
        lambda: m("tanh", a),  # costly, and keeps numbers small
        lambda: m("rsqrt", m("abs", a) + 1.0),
        lambda: select(a > b, a, -b),
        lambda: a * 0.5 + 1.0,
    ]


@st.composite
def graphs(draw, most=12):
    """A graph over an image, a factor for each channel, an offset for each image, and weights."""
    rng = np.random.default_rng(draw(st.integers(0, 3)))
    channel = Param("channel", rng.standard_normal((1, 3, 1, 1), np.float32))
    weights = Param("weights", rng.standard_normal((3, 3, 3, 3), np.float32) / 5)
    conv = Conv2d((1, 1), ((1, 1), (1, 1)))
    with Trace() as trace:
        values = [trace.input("x", IMAGE), trace.input("z", (2, 1, 1, 1)), channel.as_value()]
        for _ in range(draw(st.integers(1, most))):
            a, b = (draw(st.sampled_from(values)) for _ in range(2))
            kind = draw(st.sampled_from(["map", "map", "map", "map", "reduce", "reduce", "other"]))
            if kind == "map":
                made = draw(st.sampled_from(_maps(a, b)))()
            elif kind == "reduce":
                axes = draw(st.sampled_from(AXES))
                made = Reduce(draw(st.sampled_from(["sum", "max"])), axes)(m("tanh", a))
            elif a.shape == IMAGE:
                ways = [
                    lambda a=a: conv(a, weights),
                    lambda a=a: a.reshape(2, 60).reshape(*IMAGE),
                    lambda a=a: Flip((2, 3))(a),
                ]
                made = draw(st.sampled_from(ways))()
            else:
                made = Broadcast(IMAGE)(a)
            values.append(made)
        outputs = [values[-1], *draw(st.lists(st.sampled_from(values), max_size=3))]
        if draw(st.booleans()):
            images = [v for v in values if v.shape == (1, 3, 1, 1)]
            trace.assign(channel, draw(st.sampled_from(images)))
        return trace.graph(*outputs)


def inputs(seed=0):
    """Numbers for the inputs of such a graph."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, np.float32) for shape in (IMAGE, (2, 1, 1, 1))]
