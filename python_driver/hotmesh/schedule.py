"""Recurring starts: `client.schedule` of `Client` and of `SyncClient`.

The engine does it all: it knows crontab lines and time zones, and any worker's turn starts what is
due, once per tick. Here requests are checked and made into calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from . import _calls_schedule as _calls
from . import _codec, _requests, durations
from ._calls import Call, Job
from ._calls_schedule import Schedule
from ._requests import StartRequest, Workflow
from ._session import AsyncSession, SyncSession
from .durations import Duration
from .errors import InvalidArgumentError, ScheduleNotFoundError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .client import SyncWorkflowHandle, WorkflowHandle

__all__ = ["Overlap", "Schedule", "ScheduleClient", "ScheduleRequest", "SyncScheduleClient"]

Overlap = Literal[
    "skip", "buffer_one", "buffer_all", "allow_all", "cancel_other", "terminate_other"
]
Instant = datetime | str
"""A datetime or ISO text; one without an offset is read in the schedule's time zone."""


class ScheduleRequest(TypedDict, total=False):
    """What a schedule may say; `workflow_name` and either `cron` or `every` are needed.

    When: `cron`: five fields, or @hourly to @yearly, read in `timezone` (a name such as
    Europe/Berlin; UTC). `every`: a duration, counted from 1970-01-01 UTC, moved by `offset`.
    `start_at`, `end_at`: no tick before or after. `catchup_window`: after downtime all ticks that it
    covers start; without it those up to a minute late, and of older ones the last.

    What: `args`, `task_queue`, `entity`, `retry_policy`, `expire`, `search`, `priority`, `delay`, as
    in a start. The workflow id is the schedule's name, a dash and the tick in UTC.

    `overlap`, while a job of the schedule is open: `skip` the tick, `buffer_one` or `buffer_all`
    until it ends, `allow_all`, `cancel_other` (and start when it has ended) or `terminate_other`
    (and start at once). `paused`, `note`. `on_conflict`, when there is a schedule of this name:
    reject, existing (leaves it as it is), replace (changes it).

    `workflow`, `queue` and `options`, a dict of the rest, are the door's own names for these.
    """

    workflow_name: Workflow
    workflow: Workflow
    args: Sequence[Any]
    task_queue: str | None
    queue: str | None
    cron: str | None
    every: Duration | None
    timezone: str | None
    overlap: Overlap | None
    offset: Duration | None
    start_at: Instant | None
    end_at: Instant | None
    catchup_window: Duration | None
    paused: bool
    note: str | None
    entity: str | None
    retry_policy: Mapping[str, Any] | None
    expire: Duration | None
    search: Mapping[str, Any] | None
    priority: int | None
    delay: Duration | None
    on_conflict: _requests.OnConflict | None
    options: Mapping[str, Any] | None


# --- requests -------------------------------------------------------------------------------------

_KNOWN = frozenset(ScheduleRequest.__annotations__)
_DOOR_NAMES = {"workflow": "workflow_name", "queue": "task_queue"}


def _as_in_a_start(request: ScheduleRequest) -> ScheduleRequest:
    """The request with a start's names for what it says in the door's."""
    options = request.get("options")
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise InvalidArgumentError(f"options must be a dict, not {_codec.kind(options)}")
    told: dict[str, Any] = {}
    for name, value in [*options.items(), *request.items()]:
        ours = _DOOR_NAMES.get(name, name)
        if ours in told:
            raise InvalidArgumentError(f"a schedule says {ours} twice")
        if name != "options":
            told[ours] = value
    return cast(ScheduleRequest, told)


def _create(app: str, name: str, request: ScheduleRequest) -> Call[Schedule]:
    request = _as_in_a_start(request)
    if unknown := sorted(request.keys() - _KNOWN):
        raise InvalidArgumentError(
            f"a schedule takes no {unknown[0]}", hint=f"it takes {', '.join(sorted(_KNOWN))}"
        )
    name = _codec.text(name, "name")
    options = _options(request)
    every = request.get("every")
    call = _calls.schedule_create(
        app,
        {
            "name": name,
            "workflow": _requests.name_of(request.get("workflow_name")),
            "args": _requests.args_of(request.get("args", ()), "args"),
            "queue": _optional(request, "task_queue"),
            "cron": _optional(request, "cron"),
            "every": None if every is None else durations.parse(every, "every"),
            "timezone": _optional(request, "timezone") or "UTC",
            "overlap": _optional(request, "overlap") or "skip",
            "options": _codec.dumps(options, "options"),
        },
    )
    if options.get("on_conflict") in ("existing", "replace"):
        return call.repeatable()
    return dataclasses.replace(call, probe=_exists(app, name))


def _exists(app: str, name: str) -> Call[bool]:
    found = _calls.schedule_list(app, name)
    return Call(found.sql, found.params, bool, repeat=True)


def _optional(request: ScheduleRequest, what: str) -> str | None:
    value = request.get(what)
    return None if value is None else _codec.text(value, what)


def _options(request: ScheduleRequest) -> dict[str, Any]:
    told = _requests.options_of(cast(StartRequest, request), "")
    for what in ("offset", "catchup_window"):
        if (duration := request.get(what)) is not None:
            told[what] = durations.to_json(duration, what)  # type: ignore[arg-type]
    for what in ("start_at", "end_at"):
        if (instant := request.get(what)) is not None:
            told[what] = _instant(instant, what)
    for what in ("entity", "note"):
        if (text := _optional(request, what)) is not None:
            told[what] = text
    if (paused := request.get("paused")) is not None:
        told["paused"] = paused
    return told


def _instant(value: object, what: str) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return _codec.text(value, what)


def _backfill(app: str, name: str, start_at: Instant, end_at: Instant) -> Call[list[Job]]:
    ends = []
    for what, value in (("start_at", start_at), ("end_at", end_at)):
        if isinstance(value, datetime) and value.tzinfo is None:
            raise InvalidArgumentError(
                f"{what} has no time zone", hint="for instance datetime(…, tzinfo=timezone.utc)"
            )
        ends.append(_instant(value, what))
    return _calls.schedule_backfill(app, _codec.text(name, "name"), *ends)


def _only(found: list[Schedule], name: str) -> Schedule:
    if not found:
        raise ScheduleNotFoundError(
            f'schedule "{name}" not found', hint="hotmesh.schedule_list shows those there are."
        )
    return found[0]


# --- async ----------------------------------------------------------------------------------------


class ScheduleClient:
    """`client.schedule`: create recurring starts and look after them."""

    def __init__(
        self, session: AsyncSession, get_handle: Callable[..., WorkflowHandle[Any]]
    ) -> None:
        self._session = session
        self._get_handle = get_handle

    async def create(
        self, name: str, *, conn: object = None, **request: Unpack[ScheduleRequest]
    ) -> Schedule:
        """Start a workflow again and again; see :class:`ScheduleRequest` for what each argument means.

        With `conn`, a psycopg connection of the caller, it is part of its transaction. Raises
        :class:`ScheduleExistsError`, :class:`InvalidArgumentError`.
        """
        return await self._session.run(_create(self._session.app_id, name, request), conn)

    async def pause(self, name: str, note: str | None = None) -> Schedule:
        """Stop starting; open jobs go on. Raises :class:`ScheduleNotFoundError`, as all below."""
        return await self._session.run(_calls.schedule_pause(self._session.app_id, name, note))

    async def resume(self, name: str, note: str | None = None) -> Schedule:
        """Go on with the next tick; what passed meanwhile is not made up for."""
        return await self._session.run(_calls.schedule_resume(self._session.app_id, name, note))

    async def delete(self, name: str) -> None:
        """Drop the schedule; the jobs that it started stay."""
        await self._session.run(_calls.schedule_delete(self._session.app_id, name))

    async def list(self) -> list[Schedule]:
        """All schedules of the app, by name."""
        return await self._session.run(_calls.schedule_list(self._session.app_id))

    async def get(self, name: str) -> Schedule:
        """One schedule."""
        return _only(
            await self._session.run(_calls.schedule_list(self._session.app_id, name)), name
        )

    async def trigger(self, name: str) -> WorkflowHandle[Any]:
        """Start its workflow now, whatever is open; its ticks stay as they are."""
        job = await self._session.run(_calls.schedule_trigger(self._session.app_id, name))
        return self._get_handle(job.queue, job.workflow, job.key)

    async def backfill(
        self, name: str, start_at: Instant, end_at: Instant
    ) -> Sequence[WorkflowHandle[Any]]:
        """Start, all at once, what has no job yet of its ticks between two instants that have passed.

        At most 1,000 ticks in one call.
        """
        call = _backfill(self._session.app_id, name, start_at, end_at)
        jobs = await self._session.run(call)
        return [self._get_handle(job.queue, job.workflow, job.key) for job in jobs]


# --- blocking -------------------------------------------------------------------------------------


class SyncScheduleClient:
    """The blocking twin of :class:`ScheduleClient`."""

    def __init__(
        self, session: SyncSession, get_handle: Callable[..., SyncWorkflowHandle[Any]]
    ) -> None:
        self._session = session
        self._get_handle = get_handle

    def create(
        self, name: str, *, conn: object = None, **request: Unpack[ScheduleRequest]
    ) -> Schedule:
        """Start a workflow again and again; see :meth:`ScheduleClient.create`."""
        return self._session.run(_create(self._session.app_id, name, request), conn)

    def pause(self, name: str, note: str | None = None) -> Schedule:
        """Stop starting; see :meth:`ScheduleClient.pause`."""
        return self._session.run(_calls.schedule_pause(self._session.app_id, name, note))

    def resume(self, name: str, note: str | None = None) -> Schedule:
        """Go on with the next tick; see :meth:`ScheduleClient.resume`."""
        return self._session.run(_calls.schedule_resume(self._session.app_id, name, note))

    def delete(self, name: str) -> None:
        """Drop the schedule; see :meth:`ScheduleClient.delete`."""
        self._session.run(_calls.schedule_delete(self._session.app_id, name))

    def list(self) -> list[Schedule]:
        """All schedules of the app, by name."""
        return self._session.run(_calls.schedule_list(self._session.app_id))

    def get(self, name: str) -> Schedule:
        """One schedule."""
        return _only(self._session.run(_calls.schedule_list(self._session.app_id, name)), name)

    def trigger(self, name: str) -> SyncWorkflowHandle[Any]:
        """Start its workflow now; see :meth:`ScheduleClient.trigger`."""
        job = self._session.run(_calls.schedule_trigger(self._session.app_id, name))
        return self._get_handle(job.queue, job.workflow, job.key)

    def backfill(
        self, name: str, start_at: Instant, end_at: Instant
    ) -> Sequence[SyncWorkflowHandle[Any]]:
        """Start what was missed; see :meth:`ScheduleClient.backfill`."""
        jobs = self._session.run(_backfill(self._session.app_id, name, start_at, end_at))
        return [self._get_handle(job.queue, job.workflow, job.key) for job in jobs]
