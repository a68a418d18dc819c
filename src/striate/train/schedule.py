"""Learning-rate schedules: functions of the step or of the epoch, with PyTorch's formulas.

A schedule answers one question: which rate belongs to step (or epoch) `t`, counted from 0?

    schedule = Cosine(T_max=100).start(lr=0.1)
    for t in range(100):
        step.lr = schedule.at(t)

`Trainer` calls `start` itself, with the number of steps or epochs it is going to run.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from striate.errors import ArgumentError


class Schedule:
    """Base of all schedules.

    Attributes:
        by: what `t` counts: "step" (one update of the weights) or "epoch".
        base_lr: the rate given to `start`; the optimiser's own rate in a `Trainer`.
        total: the number of steps or epochs given to `start`, or None.
        monitor: the name in an epoch's logs whose value is handed to `observe`, or None.
    """

    by: str
    monitor: str | None = None
    state_fields: ClassVar[tuple[str, ...]] = ()  # what a resumed run cannot work out again

    def __init__(self, by: str) -> None:
        if by not in {"step", "epoch"}:
            raise ArgumentError(f"{type(self).__name__}: by must be 'step' or 'epoch', got {by!r}")
        self.by = by
        self.base_lr = math.nan
        self.total: int | None = None

    def start(self, lr: float, total: int | None = None) -> Schedule:
        """Fix the base rate and the length (in steps or epochs, as `by` says); return self."""
        self.base_lr = float(lr)
        self.total = total
        return self

    def at(self, t: int) -> float:
        """The learning rate of step or epoch `t`, counted from 0."""
        raise NotImplementedError

    def momentum_at(self, t: int) -> float | None:  # noqa: ARG002 - only OneCycle moves it
        """The momentum (Adam: beta1) of step `t`, or None where it stays as it is."""
        return None

    def observe(self, value: float) -> None:
        """Hear the monitored value of an epoch that has ended; only `ReduceOnPlateau` listens."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know beside `start`'s arguments, as JSON values."""
        return {name: getattr(self, name) for name in self.state_fields}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave. Raises ArgumentError if a field is missing."""
        missing = [name for name in self.state_fields if name not in state]
        if missing:
            raise ArgumentError(f"{type(self).__name__}: state lacks {', '.join(missing)}")
        for name in self.state_fields:
            setattr(self, name, state[name])

    def _length(self, given: int | None, argument: str) -> int:
        length = given if given is not None else self.total
        if length is None:
            raise ArgumentError(
                f"{type(self).__name__}: {argument} was not given and start(lr, total) has not "
                f"said how many {self.by}s there are"
            )
        return length


class Cosine(Schedule):
    """Half a cosine from the base rate down to `eta_min` (torch CosineAnnealingLR).

    Args:
        T_max: steps or epochs until `eta_min` is reached; default: the whole run.
        eta_min: the lowest rate.
        by: what `t` counts.
    """

    def __init__(self, T_max: int | None = None, eta_min: float = 0.0, *, by: str = "step") -> None:
        super().__init__(by)
        if T_max is not None and T_max < 1:
            raise ArgumentError(f"Cosine: T_max must be at least 1, got {T_max}")
        self.T_max = T_max
        self.eta_min = eta_min

    def at(self, t: int) -> float:
        """lr(t) = eta_min + (base − eta_min) · (1 + cos(π t / T_max)) / 2."""
        length = self._length(self.T_max, "T_max")
        return self.eta_min + (self.base_lr - self.eta_min) * (
            (1 + math.cos(math.pi * t / length)) / 2
        )


class Step(Schedule):
    """The rate times `gamma` every `step_size` epochs (torch StepLR)."""

    def __init__(self, step_size: int, gamma: float = 0.1, *, by: str = "epoch") -> None:
        super().__init__(by)
        if step_size < 1:
            raise ArgumentError(f"Step: step_size must be at least 1, got {step_size}")
        self.step_size = step_size
        self.gamma = gamma

    def at(self, t: int) -> float:
        """lr(t) = base · gamma^⌊t / step_size⌋."""
        return self.base_lr * float(self.gamma ** (t // self.step_size))


class OneCycle(Schedule):
    """Up from `max_lr / div_factor` to `max_lr`, then down to almost nothing (torch OneCycleLR).

    The momentum goes the other way. The base rate of the optimiser is not used.

    Args:
        max_lr: the highest rate.
        total_steps: length; default: the whole run.
        pct_start: share of the run spent rising.
        anneal_strategy: "cos" or "linear".
        cycle_momentum: move the momentum (Adam: beta1) between `max_momentum` at the lowest
            rates and `base_momentum` at the highest.
        base_momentum, max_momentum: its two ends.
        div_factor: the first rate is `max_lr / div_factor`.
        final_div_factor: the last rate is the first one divided by this.
        three_phase: fall back to the first rate symmetrically, then go down to the last one.
        by: what `t` counts.
    """

    def __init__(
        self,
        max_lr: float,
        total_steps: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        *,
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        by: str = "step",
    ) -> None:
        super().__init__(by)
        if anneal_strategy not in {"cos", "linear"}:
            raise ArgumentError(
                f"OneCycle: anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}"
            )
        if not 0 <= pct_start <= 1:
            raise ArgumentError(f"OneCycle: pct_start must lie in 0..1, got {pct_start}")
        self.max_lr = max_lr
        self.total_steps = total_steps
        self.pct_start = pct_start
        self.anneal_strategy = anneal_strategy
        self.cycle_momentum = cycle_momentum
        self.base_momentum = base_momentum
        self.max_momentum = max_momentum
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        self.three_phase = three_phase

    def at(self, t: int) -> float:
        """The rate of step `t`; the last one stays after the end."""
        first = self.max_lr / self.div_factor
        last = first / self.final_div_factor
        ends = [first, self.max_lr, first, last] if self.three_phase else [first, self.max_lr, last]
        return self._piece(t, ends)

    def momentum_at(self, t: int) -> float | None:
        """The momentum of step `t`, or None without `cycle_momentum`."""
        if not self.cycle_momentum:
            return None
        low, high = self.base_momentum, self.max_momentum
        return self._piece(t, [high, low, high, high] if self.three_phase else [high, low, high])

    def _piece(self, t: int, ends: list[float]) -> float:
        """Interpolate between `ends[i]` and `ends[i + 1]`, at the corners PyTorch uses."""
        total = self._length(self.total_steps, "total_steps")
        rise = self.pct_start * total - 1.0
        corners = [0.0, rise, 2 * rise, total - 1] if self.three_phase else [0.0, rise, total - 1]
        t = min(t, total - 1)
        i = next(i for i in range(len(ends) - 1) if t <= corners[i + 1] or i == len(ends) - 2)
        width = corners[i + 1] - corners[i]
        share = (t - corners[i]) / width if width else 1.0
        start, end = ends[i], ends[i + 1]
        if self.anneal_strategy == "cos":
            return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
        return start + (end - start) * share


class Warmup(Schedule):
    """A linear rise before another schedule (torch SequentialLR of LinearLR and that one).

    Args:
        schedule: what follows; counted from the end of the rise, and of the same `by`.
        total_iters: length of the rise in steps or epochs.
        start_factor: the first rate is the base rate times this.
    """

    def __init__(
        self, schedule: Schedule, total_iters: int = 5, start_factor: float = 1 / 3
    ) -> None:
        super().__init__(schedule.by)
        if total_iters < 0:
            raise ArgumentError(f"Warmup: total_iters must not be negative, got {total_iters}")
        if not 0 < start_factor <= 1:
            raise ArgumentError(f"Warmup: start_factor must lie in (0, 1], got {start_factor}")
        self.schedule = schedule
        self.monitor = schedule.monitor
        self.total_iters = total_iters
        self.start_factor = start_factor

    def start(self, lr: float, total: int | None = None) -> Schedule:
        """As `Schedule.start`; what follows gets the length that is left (at least 1)."""
        super().start(lr, total)
        self.schedule.start(lr, None if total is None else max(1, total - self.total_iters))
        return self

    def at(self, t: int) -> float:
        """lr(t) = base · (f + (1 − f) · t / total_iters) during the rise, f = start_factor."""
        if t >= self.total_iters:
            return self.schedule.at(t - self.total_iters)
        share = t / self.total_iters
        return self.base_lr * (self.start_factor + (1 - self.start_factor) * share)

    def momentum_at(self, t: int) -> float | None:
        """The momentum of what follows; its first value during the rise."""
        return self.schedule.momentum_at(max(0, t - self.total_iters))

    def observe(self, value: float) -> None:
        """Handed on to what follows."""
        self.schedule.observe(value)

    def state_dict(self) -> dict[str, Any]:
        """Its own state, and that of what follows."""
        return {**super().state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        self.schedule.load_state_dict(state.get("schedule", {}))


class ReduceOnPlateau(Schedule):
    """The rate times `factor` when the monitored value stops improving (torch ReduceLROnPlateau).

    Args:
        mode: "min" if smaller is better, "max" if larger is.
        factor: what the rate is multiplied with; below 1.
        patience: epochs without improvement that are borne; the next one reduces.
        threshold, threshold_mode: what counts as an improvement: by a share ("rel") of the best
            value or by an amount ("abs").
        cooldown: epochs after a reduction in which nothing is counted.
        min_lr: the lowest rate.
        eps: a reduction smaller than this is not made.
        monitor: the name in the logs that `Trainer` hands to `observe`.
    """

    state_fields = ("lr", "best", "bad_epochs", "cooldown_left")

    def __init__(
        self,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
        *,
        monitor: str = "val_loss",
    ) -> None:
        super().__init__("epoch")
        if mode not in {"min", "max"}:
            raise ArgumentError(f"ReduceOnPlateau: mode must be 'min' or 'max', got {mode!r}")
        if threshold_mode not in {"rel", "abs"}:
            raise ArgumentError(
                f"ReduceOnPlateau: threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}"
            )
        if not 0 < factor < 1:
            raise ArgumentError(f"ReduceOnPlateau: factor must lie in (0, 1), got {factor}")
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_lr = min_lr
        self.eps = eps
        self.monitor = monitor
        self.lr = math.nan
        self.best: float | None = None
        self.bad_epochs = 0
        self.cooldown_left = 0

    def start(self, lr: float, total: int | None = None) -> Schedule:
        """As `Schedule.start`, forgetting what was observed."""
        self.lr, self.best, self.bad_epochs, self.cooldown_left = float(lr), None, 0, 0
        return super().start(lr, total)

    def at(self, t: int) -> float:  # noqa: ARG002 - the rate depends on what was observed
        """The present rate, whatever `t`."""
        return self.lr

    def observe(self, value: float) -> None:
        """Count an epoch that ended with `value`, and reduce the rate if it is time."""
        if self._improves(value):
            self.best, self.bad_epochs = value, 0
        else:
            self.bad_epochs += 1
        if self.cooldown_left > 0:
            self.cooldown_left -= 1
            self.bad_epochs = 0
        if self.bad_epochs > self.patience:
            reduced = max(self.lr * self.factor, self.min_lr)
            if self.lr - reduced > self.eps:
                self.lr = reduced
            self.cooldown_left, self.bad_epochs = self.cooldown, 0

    def _improves(self, value: float) -> bool:
        sign = 1.0 if self.mode == "max" else -1.0
        if self.best is None:
            return sign * value > -math.inf
        if self.threshold_mode == "rel":
            return sign * value > sign * self.best * (1.0 + sign * self.threshold)
        return sign * value > sign * (self.best + sign * self.threshold)
