"""Learning-rate schedules for `Trainer` and for loops of one's own."""

from striate.train.schedule import Cosine, OneCycle, ReduceOnPlateau, Schedule, Step, Warmup

__all__ = ["Cosine", "OneCycle", "ReduceOnPlateau", "Schedule", "Step", "Warmup"]
