"""Which max pools become the end of a convolution's epilogue, and that they mean the same."""

import sys

import numpy as np
import pytest

from striate import engine, models
from striate.arith.pool import windows
from striate.engine.options import Options
from striate.engine.plan import plan
from striate.graph import Trace, evaluate
from striate.graph.ops.conv import Conv2d, ConvInputGrad
from striate.graph.ops.eltwise import m
from striate.graph.ops.fused import FusedConv
from striate.graph.ops.pool import MaxPool
from striate.graph.ops.shape import Concat
from striate.jit.target import machine
from tests.kernel_call import same_bits
from tests.small_nets import inference, param, picture, small_net, training
from tests.test_engine_reference import compare

SHAPE = (2, 16, 9, 10)
BIAS = param("b", 1, 20, 1, 1, seed=9).as_value()


def conv(x, co=20, kernel=3, seed=0, **how):
    ci = x.shape[1] // how.get("groups", 1)
    reach = how.get("dilation", (1, 1))[0] * (kernel - 1)
    w = param(f"w{seed}", co, ci, kernel, kernel, seed=seed).as_value()
    return Conv2d(padding=((reach // 2,) * 2,) * 2, **how)(x, w)


def pool(x, kernel=2, stride=2, padding=0, ceil=False):
    rows, cols = (
        windows(size, kernel, stride, (padding, padding), ceil_mode=ceil) for size in x.shape[2:]
    )
    return MaxPool(rows, cols)(x)


def relu(x):
    return m("relu", x)


def graph_of(build, shape=SHAPE):
    with Trace() as trace:
        made = build(trace.input("x", shape))
        return trace.graph(*(made if isinstance(made, tuple) else (made,)))


def pools(program):
    """(pools drawn in, pools that are steps)."""
    ops = [task.node.op for task in program.tasks]
    drawn = sum(isinstance(op, FusedConv) and op.pool for op in ops)
    return drawn, sum(isinstance(op, MaxPool) for op in ops)


def planned(graph, algorithm="auto"):
    return plan(graph, machine(), 2, options=Options(algorithm))


def leave_pools(monkeypatch):
    """From here on nothing is drawn in."""
    monkeypatch.setattr(sys.modules[plan.__module__], "draw_in_pools", lambda placed: placed)


def residual(x):
    y = relu(conv(x))
    return pool(relu(conv(y, seed=1) + BIAS + y))


def two_readers(x):
    y = pool(conv(x))
    return conv(y, seed=1), y + 1.0


DRAWN = {
    "bias and relu": lambda x: pool(relu(conv(x) + BIAS)),
    "nothing else": lambda x: pool(conv(x)),
    "relu behind": lambda x: relu(pool(conv(x))),
    "residual": residual,
    "ceil mode of even sizes": lambda x: pool(conv(x[:, :, 1:]), ceil=True),
    "padding and stride": lambda x: pool(conv(x, stride=(2, 2))),
    "groups": lambda x: pool(conv(x, 32, groups=2)),
    "dilation, direct": lambda x: pool(conv(x[:, :8], 8, dilation=(2, 2))),
    "joined": lambda x: Concat(1)(pool(conv(x)), pool(conv(x, 8, seed=1)), pool(conv(x, seed=2))),
    "two readers": two_readers,
}


@pytest.mark.parametrize("algorithm", ["direct", "winograd-f2", "winograd-f4"])
@pytest.mark.parametrize("case", DRAWN)
def test_drawn_in(case, algorithm, monkeypatch):
    graph = graph_of(DRAWN[case])
    drawn, left = pools(planned(graph, algorithm))
    assert drawn > 0
    assert left == 0
    x = picture(*SHAPE)
    together = engine.build(graph, algorithm=algorithm)(x)
    leave_pools(monkeypatch)
    assert pools(planned(graph, algorithm)) == (0, drawn)
    apart = engine.build(graph, algorithm=algorithm)(x)
    for a, b, c in zip(together, apart, evaluate(graph, [x], np.float64), strict=True):
        assert same_bits(a, b)
        np.testing.assert_allclose(a, c, rtol=0, atol=1e-4 * max(1.0, np.abs(c).max()))


@pytest.mark.parametrize("case", ["bias and relu", "residual", "joined"])
def test_step_by_step(case):
    compare(graph_of(DRAWN[case]), picture(*SHAPE))


def input_gradient(x):
    w = param("w", 16, 16, 3, 3).as_value()
    return pool(ConvInputGrad(padding=((1, 1), (1, 1)), in_h=9, in_w=10)(x, w))


def output_too(x):
    y = relu(conv(x))
    return pool(y), y


def read_twice(x):
    y = relu(conv(x))
    return pool(y), y + 1.0


LEFT = {
    "3×3 windows": lambda x: pool(conv(x), 3, 2, 1),
    "stride 1": lambda x: pool(conv(x), 2, 1),
    "padding": lambda x: pool(conv(x), padding=1),
    "ceil mode of an odd size": lambda x: pool(conv(x), ceil=True),
    "of the input": pool,
    "another map between": lambda x: pool(conv(x).max(1, keepdims=True) + conv(x, seed=1)),
    "1×1": lambda x: pool(conv(x, kernel=1)),
    "depthwise": lambda x: pool(conv(x, 16, groups=16)),
    "input gradient": input_gradient,
    "output": output_too,
    "read twice": read_twice,
}


@pytest.mark.parametrize("case", LEFT)
def test_left_as_they_are(case):
    assert pools(planned(graph_of(LEFT[case]))) == (0, 1)


def test_tiles_without_whole_windows_are_left():
    five = graph_of(lambda x: pool(conv(x, kernel=5)))
    assert pools(planned(five, "winograd-f3")) == (0, 1)
    assert pools(planned(five, "winograd-f2")) == (1, 0)
    dilated = graph_of(lambda x: pool(conv(x, dilation=(2, 2))))
    assert pools(planned(dilated, "winograd-f4")) == (0, 1)


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [("vgg11-bn", (1, 3, 64, 96), 5), ("lenet-bn", (3, 1, 28, 28), 2)],
)
def test_nets_have_no_pool_of_their_own(name, shape, count, monkeypatch):
    graph = inference(models.create(name), shape)
    program = planned(graph)
    assert pools(program) == (count, 0)
    assert not any(type(step.spec).__name__ == "MaxPool" for step in program.steps)
    assert str(program).count(", max pool 2×2(") == count
    leave_pools(monkeypatch)
    before = planned(graph)
    assert program.arena_bytes < before.arena_bytes / 2
    assert [str(c) for c in program.choices] == [str(c) for c in before.choices]


def test_a_net_with_old_textbook_pooling():
    net = models.create("lenet", activation="relu")
    compare(inference(net, (2, 1, 28, 28)), picture(2, 1, 28, 28))
    assert pools(planned(inference(net, (2, 1, 28, 28)))) == (2, 0)


def test_training_is_left_alone():
    graph = training(small_net(), (2, 3, 12, 12))
    assert pools(plan(graph, machine(), 2, training=True)) == (0, 1)


def test_other_sizes_need_no_other_kernels():
    def specs(n, h, w):
        return [
            s.spec for s in planned(graph_of(lambda x: pool(relu(conv(x))), (n, 16, h, w))).steps
        ]

    assert specs(1, 24, 24)[:2] == specs(7, 24, 24)[:2] == specs(2, 23, 25)[:2]


def test_the_plan_shows_them():
    text = engine.describe(graph_of(lambda x: pool(relu(conv(x)))))
    assert "--- with pools drawn in ---" in text
    assert "pool=True" in text.split("--- with pools drawn in ---")[1]
    assert ", max pool 2×2(" in text
