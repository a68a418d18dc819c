"""The textbook's sentences, measured: each study probes small nets and gives a verdict."""

from __future__ import annotations

import difflib
import importlib

from striate.errors import ArgumentError
from striate.studies.study import Study as Study

STUDIES = {
    "learned-kernels": "trained as convolution and as cross-correlation, kernels come out turned",
    "weight-sharing": "a CNN against a dense net: parameters, accuracy, shifted pictures",
    "one-by-one": "1×1 convolution is a dense layer over the channels of each pixel",
    "pooling": "accuracy and features against shift: max, average, stride, none",
    "receptive-field": "what an output can see against what it listens to, by depth",
    "batch-norm": "with and without: rates, loss curves, gradients, activations, noise",
}
"""Name of each study, and what it is about."""


def run(name: str, seed: int = 0) -> Study:
    """Run a study: half a minute on two cores. The same seed gives the same figures.

    Raises ArgumentError for a name that is not in `STUDIES`, naming the nearest.
    """
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(STUDIES)}"
        raise ArgumentError(f"no study is named {name!r}; {hint}")
    module = importlib.import_module(f"striate.studies.{name.replace('-', '_')}")
    study: Study = module.run(seed)
    return study
