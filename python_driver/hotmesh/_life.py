"""The life of a pump: whether it may begin, round after round, and when it has to end."""

from __future__ import annotations

import asyncio
import logging
import random
from time import monotonic
from typing import TYPE_CHECKING

from . import _calls, _paces
from .errors import ConnectionLostError, HotMeshError, NotAllowedError, ProtocolError

if TYPE_CHECKING:
    from ._pump import Pump

__all__ = ["admit", "live"]

_LOG = logging.getLogger("hotmesh")


async def admit(pump: Pump) -> None:
    """Turn once and ask for nothing: whoever may not work, or can't, is told so at once."""
    app = pump.session.app_id
    try:
        await pump.session.run(_calls.turn(app, pump.name, "[]", '{"brief":true}').repeatable())
    except NotAllowedError as error:
        raise NotAllowedError(
            f'this role may not be a worker of app "{app}": {error}',
            detail=error.detail,
            hint=f"ask the engine's owner for: select hotmesh.app_grant('{app}', role, 'worker')",
            sqlstate=error.sqlstate,
        ) from error


async def live(pump: Pump) -> HotMeshError | None:
    """Round after round until it is told to stop, or does not fit to its engine any more.

    An engine that is just being upgraded may not fit for a moment; nothing else that a database can
    say ends a worker.
    """
    pause, fitted, denied = 0.05, monotonic(), False
    while not pump._at_once and not (pump.stopping and pump.quiet):
        try:
            await pump._round()
            pause, fitted, denied = 0.05, monotonic(), False
            continue
        except HotMeshError as error:
            if not isinstance(error, ProtocolError):
                fitted = monotonic()
            elif monotonic() - fitted > _paces.MISFIT_SECONDS:
                _LOG.error("worker %s ends: %s (%s)", pump.name, error, error.hint)
                pump._let_go()
                return error
            away = isinstance(error, ConnectionLostError | NotAllowedError)
            if pump.stopping and away and not (pump._busy or pump.server.busy):
                return None  # nobody to report to: its leases run out
            if not isinstance(error, NotAllowedError):
                _LOG.warning("worker %s: %s; once more in %.1f s", pump.name, error, pause)
            elif not denied:  # said once: only the engine's owner can change it
                _LOG.warning("worker %s may not work any more, and asks on: %s", pump.name, error)
            denied = isinstance(error, NotAllowedError)
        except Exception:
            _LOG.exception("worker %s met a defect, and lets go what it holds", pump.name)
            pump._let_go()
            denied = False
        await _rest(pump, pause * random.uniform(0.5, 1.0))
        pause = min(pause * 2, _paces.DENIED_SECONDS if denied else 5.0)
    return None


async def _rest(pump: Pump, seconds: float) -> None:
    """Sleep, in pieces: a worker that is told to stop does so soon."""
    while seconds > 0:
        await asyncio.sleep(min(seconds, 1.0))
        seconds = 0.0 if pump.stopping else seconds - 1.0
