"""What can go wrong in a way that a user can mend, and the exit code that each kind ends a run with."""


class TuneError(Exception):
    """Something the user can mend. The message says what was found, what was expected and what to do."""

    exit_code = 1


class ConfigError(TuneError, ValueError):
    """A config, an override or a command line is wrong."""

    exit_code = 2


class MissingDependency(TuneError, ImportError):
    """An optional package is needed and absent; the message gives the command that installs it."""

    exit_code = 2


class DataError(TuneError, ValueError):
    """A dataset or one of its rows cannot be used; the message names the file and the row."""

    exit_code = 3


class CheckpointError(TuneError, RuntimeError):
    """A checkpoint cannot be read or written; the message names the file, the tensor and both shapes."""

    exit_code = 4


class NonFiniteError(TuneError, ArithmeticError):
    """The loss or the gradients became NaN or infinite; no optimizer step was taken on them."""

    exit_code = 5


PEER_FAILED = 6
OUT_OF_MEMORY = 7
