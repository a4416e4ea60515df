"""How the library speaks: one logger, one voice among the processes, and each warning once."""

import functools
import inspect
import logging
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from torchtune.errors import ConfigError
from torchtune.utils._world import is_rank_zero

T = TypeVar("T", bound=Callable[..., Any])


def get_logger(level: str | None = None) -> logging.Logger:
    """The library's logger ("torchtune"), set up to show bare messages on stderr unless logging is configured already.

    Every module of the library logs below it, so its level governs them all.

    Args:
        level: name of a level in any case, such as "INFO"; None leaves the level as it is.

    Raises:
        ConfigError: no level has that name.
    """
    logger = logging.getLogger("torchtune")
    if not logger.hasHandlers():
        logger.addHandler(logging.StreamHandler())
    if level is not None:
        if level.upper() not in logging.getLevelNamesMapping():
            raise ConfigError(f"log level {level!r} is not one of {', '.join(logging.getLevelNamesMapping())}")
        logger.setLevel(level.upper())
    return logger


def log_rank_zero(logger: logging.Logger, msg: str, level: int = logging.INFO) -> None:
    """Log ``msg`` in the first process only."""
    if is_rank_zero():
        logger.log(level, msg, stacklevel=2)


@functools.cache
def log_once(logger: logging.Logger, msg: str, level: int = logging.INFO) -> None:
    """Log ``msg`` in the first process, and not again in this run."""
    log_rank_zero(logger, msg, level)


def deprecated(msg: str = "") -> Callable[[T], T]:
    """Decorator that makes the first call of a function, or the first use of a class, warn that it will go away.

    Args:
        msg: what to use in its place.
    """

    def decorate(obj: T) -> T:
        text = f"{obj.__name__} is deprecated and will be removed in a later release. {msg}".rstrip()

        @functools.cache
        def warn_once() -> None:
            if is_rank_zero():
                warnings.warn(text, FutureWarning, stacklevel=3)

        if inspect.isclass(obj):
            # The class itself is kept, so that isinstance and subclasses go on working.
            obj.__init__ = _warn_before(obj.__init__, warn_once)
            return obj
        return _warn_before(obj, warn_once)

    return decorate


def _warn_before(function: Callable[..., Any], warn: Callable[[], None]) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        warn()
        return function(*args, **kwargs)

    return wrapper
