import logging
import subprocess
import sys
import warnings

import pytest

from torchtune.utils import deprecated, get_logger, log_once, log_rank_zero


def test_messages_are_bare_and_shown_once_on_stderr():
    code = (
        "from torchtune.utils import get_logger; import logging\n"
        "get_logger('info'); get_logger('INFO')\n"
        "logging.getLogger('torchtune.training.seed').info('from below'); get_logger().debug('too low')"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stderr == "from below\n" and out.stdout == ""


def test_logging_that_is_configured_already_is_left_alone():
    code = (
        "import logging; logging.basicConfig(format='mine %(message)s')\n"
        "from torchtune.utils import get_logger; get_logger('INFO').info('x')"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stderr == "mine x\n"


def test_an_unknown_level_is_an_error():
    with pytest.raises(ValueError, match="'loud' is not one of.*INFO"):
        get_logger("loud")


def test_only_the_first_process_speaks(caplog, monkeypatch):
    logger = logging.getLogger("torchtune.test_rank")
    monkeypatch.setenv("RANK", "1")
    log_rank_zero(logger, "silent", logging.WARNING)
    monkeypatch.setenv("RANK", "0")
    log_rank_zero(logger, "spoken", logging.WARNING)
    assert [r.message for r in caplog.records] == ["spoken"] and caplog.records[0].filename == "test_logging.py"


def test_log_once(caplog):
    logger = logging.getLogger("torchtune.test_once")
    for _ in range(3):
        log_once(logger, "said once", logging.WARNING)
    log_once(logger, "another", logging.WARNING)
    assert [r.message for r in caplog.records] == ["said once", "another"]


def test_a_deprecated_function_warns_once_and_works():
    @deprecated("Use g.")
    def f(x):
        """Doc."""
        return x + 1

    with pytest.warns(FutureWarning, match="f is deprecated.*Use g."):
        assert f(1) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert f(2) == 3
    assert f.__doc__ == "Doc."


def test_a_deprecated_class_stays_a_class():
    @deprecated()
    class Old:
        def __init__(self, x):
            self.x = x

    class Child(Old):
        pass

    with pytest.warns(FutureWarning, match="Old is deprecated"):
        child = Child(3)
    assert child.x == 3 and isinstance(child, Old)
