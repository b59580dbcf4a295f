"""A receiver of callbacks."""

from collections.abc import Iterator

import pytest

from tests.kits.http.callback import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()
