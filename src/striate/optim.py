"""Optimisers for `compile_step` and `Trainer`."""

from striate.train.optim import SGD, Adam, AdamW, Optimizer, RMSprop

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop"]
