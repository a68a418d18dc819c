"""Callbacks for `Trainer`."""

from striate.train.callbacks import Callback, Checkpoint, EarlyStopping
from striate.train.loggers import CSVLogger, JSONLines, ProgressBar
from striate.train.trackers import MLflow, TensorBoard

__all__ = [
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "JSONLines",
    "MLflow",
    "ProgressBar",
    "TensorBoard",
]
