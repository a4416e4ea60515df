"""One tiny model with data and a config for all tests here."""

import pytest
from tiny_run import TinyRun


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> TinyRun:
    return TinyRun(tmp_path_factory.mktemp("tiny"))
