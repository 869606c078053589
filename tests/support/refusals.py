"""What a refused call says."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from support.hand import Connection


def refusal(connection: Connection, query: str, *params: Any) -> psycopg.errors.Diagnostic:
    """What a refused call says; a refusal always has a detail and a hint."""
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(query, params)
    diag = caught.value.diag
    assert diag.message_detail, diag.message_primary
    assert diag.message_hint, diag.message_primary
    return diag
