"""Every error that a user of Striate can meet.

All derive from `StriateError`, and from the built-in class that fits, so that both
`except striate.StriateError` and `except ValueError` work.
"""


class StriateError(Exception):
    """Base class of all errors raised on purpose by Striate."""


class ShapeError(StriateError, ValueError):
    """An array or image has a shape that the operation cannot take."""


class DTypeError(StriateError, TypeError):
    """An array has a dtype that cannot be converted without loss of meaning."""


class ArgumentError(StriateError, ValueError):
    """An argument has a value outside its range, or contradicts another argument."""


class UnsupportedError(StriateError, NotImplementedError):
    """A well-formed request that Striate does not implement."""


class TraceError(StriateError, TypeError):
    """Python code inside `forward` did what a traced network cannot do."""


class FormatError(StriateError, ValueError):
    """A file is damaged, altered or of another kind than expected."""


class DataError(StriateError, ValueError):
    """A data set or picture cannot be used as it is."""


class WriteError(StriateError, OSError):
    """A file could not be written; what was there before is unchanged."""


class CacheError(StriateError, OSError):
    """The kernel cache folder cannot be used."""


class CompileError(StriateError, RuntimeError):
    """A generated kernel did not verify or compile: a defect in Striate."""


class NonFiniteError(StriateError, ArithmeticError):
    """The loss of a training run became NaN or infinite."""


class CheckpointError(StriateError, ValueError):
    """A run folder or checkpoint cannot be resumed."""


class InterruptedTraining(StriateError, KeyboardInterrupt):
    """Training was stopped by Ctrl-C or SIGTERM after saving a checkpoint."""
