"""Activations: elementwise functions as layers. Shapes stay as they are."""

from __future__ import annotations

import striate.functional as F
from striate.errors import ArgumentError
from striate.nn.layers_conv import positive
from striate.nn.module import Module, Parameter, Tensor

# `inplace` exists for the sake of code written for PyTorch; values are never changed in place.


class ReLU(Module):
    """max(x, 0)."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.relu(x)


class ReLU6(ReLU):
    """min(max(x, 0), 6)."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.relu6(x)


class LeakyReLU(Module):
    """x where x > 0, else negative_slope · x."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return f"negative_slope={self.negative_slope}"


class PReLU(Module):
    """x where x > 0, else weight · x, with one trained weight, or one for each channel.

    Attributes:
        weight: (num_parameters,), at first `init`. num_parameters is 1 or the number of channels.
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        super().__init__()
        self.weight = Parameter([init] * positive("num_parameters", num_parameters))

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise; channels are axis 1."""
        return F.prelu(x, self.weight)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return f"num_parameters={self.weight.size}"


class ELU(Module):
    """x where x > 0, else alpha · (eˣ − 1)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.elu(x, self.alpha)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return f"alpha={self.alpha}"


class Sigmoid(Module):
    """1 / (1 + e⁻ˣ)."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.sigmoid(x)


class SiLU(ReLU):
    """x · sigmoid(x), also called swish."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.silu(x)


class Hardsigmoid(ReLU):
    """min(max(x + 3, 0), 6) / 6."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.hardsigmoid(x)


class Hardswish(ReLU):
    """x · min(max(x + 3, 0), 6) / 6."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.hardswish(x)


class Softplus(Module):
    """log(1 + exp(beta · x)) / beta, and x itself where beta · x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.softplus(x, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return f"beta={self.beta}, threshold={self.threshold}"


class Mish(ReLU):
    """x · tanh(log(1 + exp(x)))."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.mish(x)


class Tanh(Module):
    """tanh x."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.tanh(x)


class GELU(Module):
    """x · Φ(x), Φ the normal distribution; `approximate="tanh"` for the formula with tanh."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in {"none", "tanh"}:
            raise ArgumentError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.gelu(x, approximate=self.approximate)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return f"approximate={self.approximate!r}"


class Softmax(Module):
    """eˣ / Σ eˣ along the axis `dim`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Along `dim`."""
        return F.softmax(x, self.dim)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return f"dim={self.dim}"
