"""Callbacks for `Trainer`."""

from striate.train.callbacks import Callback, Checkpoint, EarlyStopping
from striate.train.loggers import CSVLogger, JSONLines, ProgressBar

__all__ = [
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "JSONLines",
    "ProgressBar",
]
