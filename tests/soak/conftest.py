"""The results of this and of earlier calls, for all tests of the soak."""

import pytest

from tests.soak.record import Record


@pytest.fixture(scope="session")
def record() -> Record:
    """What has been found so far."""
    return Record()
