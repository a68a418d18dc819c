"""What a training run has measured, epoch by epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The columns of log.csv, in this order.
COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "lr",
    "seconds",
    "images_per_second",
)

Logs = dict[str, float]


class History:
    """The logs of every finished epoch.

    Attributes:
        history: name → one value for each epoch, in order. The names are the columns of log.csv;
            accuracies are only there for class labels, `val_*` only if there was a validation set.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.history.items())
        return f"History({last})"

    def _repr_html_(self) -> str:
        """A table for notebooks, a row an epoch."""
        names = list(self.history)
        head = "".join(f"<th>{name}</th>" for name in names)
        rows = zip(*self.history.values(), strict=True)
        body = "".join(
            "<tr>" + "".join(f"<td>{value:.5g}</td>" for value in row) + "</tr>" for row in rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def append(self, logs: Logs) -> None:
        """Add one epoch."""
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def plot(self) -> Figure:
        """Loss, accuracy and learning rate over the epochs, as a matplotlib figure."""
        from matplotlib.figure import Figure

        panels = [
            ("loss", ["train_loss", "val_loss"]),
            ("accuracy", ["train_accuracy", "val_accuracy"]),
            ("learning rate", ["lr"]),
        ]
        panels = [(title, [n for n in names if n in self.history]) for title, names in panels]
        panels = [(title, names) for title, names in panels if names]
        figure = Figure(figsize=(4.5 * max(1, len(panels)), 3.5), layout="constrained")
        for i, (title, names) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), i + 1)
            for name in names:
                axes.plot(self.history["epoch"], self.history[name], marker=".", label=name)
            axes.set_xlabel("epoch")
            axes.set_ylabel(title)
            if len(names) > 1:
                axes.legend()
        return figure
