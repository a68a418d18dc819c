"""Run checkpoints: everything that a training run needs to go on as if nothing had happened.

A checkpoint is a safetensors file of format "checkpoint/1": named arrays (weights, statistics,
optimiser state …) and one JSON object (epoch, position, schedule, configuration …). What is in
them is the trainer's affair; here they are written whole and read back checked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from striate.errors import CheckpointError
from striate.io.model import check_format, parse_object
from striate.io.safetensors import Arrays, read_safetensors, write_safetensors

FORMAT = "checkpoint/1"


def write_checkpoint(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray[Any, Any]],
    values: Mapping[str, Any],
) -> None:
    """Write arrays and JSON values; the file is whole or absent, an older one stays until then.

    Raises WriteError, in one line, if it cannot be written (a full disk, …).
    """
    strings = {"striate.format": FORMAT, "striate.values": json.dumps(values)}
    write_safetensors(path, arrays, strings)


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and values of a checkpoint.

    Raises: CheckpointError if there is none; FormatError if the file is truncated, altered or of
    another kind.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no checkpoint to resume from")
    arrays, strings = read_safetensors(path)
    check_format(path, strings, FORMAT, "a Striate checkpoint")
    return arrays, parse_object(path, strings, "striate.values")
