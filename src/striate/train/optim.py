"""Optimisers: PyTorch's update rules, each written once, as expressions of symbols.

An optimiser holds hyperparameters only. Its state lives in the `Step` that `compile_step` makes:
`slots` arrays of each weight's shape, which start from 0, and the number of steps done. Whatever
changes from step to step (rate, momentum, bias corrections) is a scalar that the host works out in
float64, so that changing it compiles nothing.

Source of the rules: https://docs.pytorch.org/docs/stable/optim.html
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from striate.errors import ArgumentError
from striate.graph import Value
from striate.graph.ops.eltwise import Map

Symbols = Mapping[str, Value]
Update = tuple[Value, dict[str, Value]]


class Optimizer:
    """Base of all optimisers.

    Attributes:
        lr: the rate a `Step` starts with; a step's own `.lr` may then be changed at any time.
        momentum: likewise the momentum (Adam: beta1), which `OneCycle` moves.
        weight_decay: as in PyTorch, for all weights, or with `decay_norm_bias=False` only for
            those with two or more axes, that is not for biases and normalisation.
    """

    slots: tuple[str, ...] = ()

    def __init__(
        self, lr: float, momentum: float, weight_decay: float, decay_norm_bias: bool
    ) -> None:
        self._check("lr", lr, 0.0, math.inf)
        self._check("momentum", momentum, 0.0, math.inf)
        self._check("weight_decay", weight_decay, 0.0, math.inf)
        self.lr = float(lr)
        self.momentum = float(momentum)
        self.weight_decay = float(weight_decay)
        self.decay_norm_bias = decay_norm_bias

    def _check(self, name: str, value: float, low: float, below: float) -> None:
        if not low <= value < below:
            raise ArgumentError(
                f"{type(self).__name__}: {name} must lie in [{low}, {below}), got {value}"
            )

    def options(self) -> dict[str, Any]:
        """Every hyperparameter by name, as JSON values."""
        return {name: value for name, value in vars(self).items() if name != "slots"}

    @property
    def has_momentum(self) -> bool:
        """Whether the rule uses the momentum (Adam: beta1) at all."""
        return "momentum_buffer" in self.slots

    def decays(self, p: Value) -> bool:
        """Whether the weight `p` is decayed."""
        return self.weight_decay != 0 and (self.decay_norm_bias or p.ndim > 1)

    def scalars(self, t: int, lr: float, momentum: float) -> dict[str, float]:
        """What step `t` (counted from 0) needs beside weights, gradients and state."""
        raise NotImplementedError

    def update(self, p: Value, g: Value, state: Symbols, s: Symbols) -> Update:
        """The new weight and the new state.

        Args:
            p: the weight.
            g: its gradient.
            state: slot → the array of this weight.
            s: what `scalars` gives, as symbols of shape ().
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options().items())
        return f"{type(self).__name__}({options})"


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (torch.optim.SGD).

    g ← g + weight_decay · p;  b ← momentum · b + (1 − dampening) · g, in the first step b ← g;
    with nesterov g ← g + momentum · b, else g ← b;  p ← p − lr · g
    """

    def __init__(
        self,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        dampening: float = 0.0,
        decay_norm_bias: bool = True,
    ) -> None:
        super().__init__(lr, momentum, weight_decay, decay_norm_bias)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ArgumentError(
                "SGD: nesterov needs a momentum above 0 and no dampening, got "
                f"momentum={momentum}, dampening={dampening}"
            )
        self.nesterov = nesterov
        self.dampening = float(dampening)
        self.slots = ("momentum_buffer",) if momentum else ()

    def scalars(self, t: int, lr: float, momentum: float) -> dict[str, float]:
        """The rate; the momentum; the share of the gradient that enters the buffer."""
        if not self.slots:
            return {"lr": lr}
        return {"lr": lr, "momentum": momentum, "fresh": 1.0 if t == 0 else 1.0 - self.dampening}

    def update(self, p: Value, g: Value, state: Symbols, s: Symbols) -> Update:
        """One step; see the class."""
        if self.decays(p):
            g = g + p * self.weight_decay
        if not self.slots:
            return p - s["lr"] * g, {}
        # b = 0 before the first step, so b ← g needs no case of its own.
        b = s["momentum"] * state["momentum_buffer"] + s["fresh"] * g
        direction = g + s["momentum"] * b if self.nesterov else b
        return p - s["lr"] * direction, {"momentum_buffer": b}


class Adam(Optimizer):
    """Adam (torch.optim.Adam): weight decay is added to the gradient.

    m ← β1 · m + (1 − β1) · g;  v ← β2 · v + (1 − β2) · g²
    p ← p − lr / (1 − β1ᵗ) · m / (√v / √(1 − β2ᵗ) + eps), t = 1 in the first step;
    with amsgrad the largest v so far stands for v in the last line.
    """

    decoupled = False

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        decay_norm_bias: bool = True,
    ) -> None:
        self._check("betas[0]", betas[0], 0.0, 1.0)
        self._check("betas[1]", betas[1], 0.0, 1.0)
        self._check("eps", eps, 0.0, math.inf)
        super().__init__(lr, betas[0], weight_decay, decay_norm_bias)
        self.beta2 = float(betas[1])
        self.eps = float(eps)
        self.amsgrad = amsgrad
        self.slots = ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if amsgrad else ()))

    @property
    def has_momentum(self) -> bool:
        """Always: beta1 is the momentum."""
        return True

    def scalars(self, t: int, lr: float, momentum: float) -> dict[str, float]:
        """Step size, share of the new gradient, root of the second bias correction, decay."""
        scalars = {
            "step_size": lr / (1 - momentum ** (t + 1)),
            "fresh": 1 - momentum,
            "root_correction": math.sqrt(1 - self.beta2 ** (t + 1)),
        }
        if self.decoupled and self.weight_decay:
            scalars["keep"] = 1 - lr * self.weight_decay
        return scalars

    def update(self, p: Value, g: Value, state: Symbols, s: Symbols) -> Update:
        """One step; see the class."""
        if self.decays(p):
            if self.decoupled:
                p = p * s["keep"]
            else:
                g = g + p * self.weight_decay
        m = state["exp_avg"] + (g - state["exp_avg"]) * s["fresh"]
        v = state["exp_avg_sq"] * self.beta2 + (1 - self.beta2) * (g * g)
        new = {"exp_avg": m, "exp_avg_sq": v}
        if self.amsgrad:
            v = new["max_exp_avg_sq"] = Map("max")(state["max_exp_avg_sq"], v)
        return p - s["step_size"] * (m / (v**0.5 / s["root_correction"] + self.eps)), new


class AdamW(Adam):
    """Adam with decoupled decay (torch.optim.AdamW): first p ← p · (1 − lr · weight_decay)."""

    decoupled = True

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        decay_norm_bias: bool = True,
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay, amsgrad, decay_norm_bias=decay_norm_bias)


class RMSprop(Optimizer):
    """RMSprop (torch.optim.RMSprop).

    g ← g + weight_decay · p;  v ← alpha · v + (1 − alpha) · g²
    centered: a ← alpha · a + (1 − alpha) · g and v − a² stands for v in what follows;
    with momentum b ← momentum · b + g / (√v + eps), p ← p − lr · b;
    else p ← p − lr · g / (√v + eps)
    """

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        decay_norm_bias: bool = True,
    ) -> None:
        self._check("alpha", alpha, 0.0, math.inf)
        self._check("eps", eps, 0.0, math.inf)
        super().__init__(lr, momentum, weight_decay, decay_norm_bias)
        self.alpha = float(alpha)
        self.eps = float(eps)
        self.centered = centered
        self.slots = (
            "square_avg",
            *(("grad_avg",) if centered else ()),
            *(("momentum_buffer",) if momentum else ()),
        )

    def scalars(self, t: int, lr: float, momentum: float) -> dict[str, float]:  # noqa: ARG002
        """The rate, and the momentum where there is one."""
        return {"lr": lr, "momentum": momentum} if self.has_momentum else {"lr": lr}

    def update(self, p: Value, g: Value, state: Symbols, s: Symbols) -> Update:
        """One step; see the class."""
        if self.decays(p):
            g = g + p * self.weight_decay
        v = state["square_avg"] * self.alpha + (1 - self.alpha) * (g * g)
        new = {"square_avg": v}
        if self.centered:
            a = state["grad_avg"] + (g - state["grad_avg"]) * (1 - self.alpha)
            new["grad_avg"] = a
            v = v - a * a
        scaled = g / (v**0.5 + self.eps)
        if self.has_momentum:
            scaled = new["momentum_buffer"] = s["momentum"] * state["momentum_buffer"] + scaled
        return p - s["lr"] * scaled, new
