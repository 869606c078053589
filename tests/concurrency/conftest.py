"""A house and a worker by hand, for the races."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from support.flows import House, opened
from support.hand import Connection, Hand


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with opened(dsn) as house:
        yield house


@pytest.fixture
def hand(caller: Connection) -> Iterator[Hand]:
    return Hand(caller, workflows=(("default", "order"), ("default", "aid")))
