"""The front step of the engine: every SQL text of the driver, one function per door.

A function here builds a :class:`Call`, a value without I/O: the text, its parameters, and how to
read the rows. `_session` runs it, blocking or not. A text is always `select … from hotmesh.door(…)`
with named arguments; jsonb goes in as text that `_codec` made, and comes out as Python values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = [
    "BEFORE_ALL",
    "PROTOCOL",
    "Call",
    "Delivery",
    "Job",
    "Message",
    "Outcome",
    "app_create",
    "app_drop",
    "app_grant",
    "app_revoke",
    "app_upgrade",
    "build",
    "job_archive",
    "job_exists",
    "job_export",
    "job_history",
    "job_list",
    "job_prune",
    "job_result",
    "job_results",
    "job_start",
    "job_start_many",
    "job_state",
    "job_status",
    "protocol",
    "stream_claim",
    "stream_complete",
    "stream_extend",
    "stream_fail",
    "stream_hold",
    "stream_revive",
    "turn",
    "version",
    "worker_extend",
    "worker_heartbeat",
    "worker_stop",
]

PROTOCOL = 1
"""The protocol that this driver speaks; `hotmesh.protocol()` must answer the same number."""

BEFORE_ALL = -(2**31)
"""Before the first step of any job; what its code never asked for is numbered below zero."""

T = TypeVar("T")
Rows = Sequence[tuple[Any, ...]]


@dataclass(frozen=True)
class Call(Generic[T]):
    """One statement and how to read its answer.

    When the connection broke and nobody knows whether the call took effect, it is made once more if
    it may `repeat`, as a read may; else `probe` tells whether it took effect, and it is repeated if
    not. Without either the caller gets a `ConnectionLostError`. `job_id` goes into the errors.
    """

    sql: str
    params: Mapping[str, Any]
    read: Callable[[Rows], T]
    repeat: bool = False
    probe: Call[bool] | None = None
    job_id: str | None = None

    def repeatable(self) -> Call[T]:
        """This call, to be repeated whenever its outcome is unknown."""
        return dataclasses.replace(self, repeat=True)


class Job(NamedTuple):
    """A job as its start returns it; `status` counts open obligations, and below zero it failed."""

    id: int
    key: str
    workflow: str
    entity: str
    queue: str
    status: int
    created_at: datetime
    closed_at: datetime | None


class Outcome(NamedTuple):
    """How a job ended; `status` is None where there is no job of this key."""

    key: str
    status: int | None
    output: Any
    error: Any


class Delivery(NamedTuple):
    """One row of a turn's answer: an answer to a report, or work to do; times are seconds."""

    answer: str | None
    id: int | None
    token: int | None
    kind: str | None
    queue: str | None
    name: str | None
    job_id: int | None
    key: str | None
    dimension: str | None
    sequence: int | None
    attempt: int | None
    args: Any
    cursor: int | None
    history: Any
    started: float | None
    due: float | None
    signal: str | None
    base: int | None


class Message(NamedTuple):
    """A claimed stream message; whoever reports on it shows the token."""

    id: int
    token: int
    name: str
    args: Any
    attempt: int
    key: str | None


def _one(rows: Rows) -> Any:
    return rows[0][0] if rows else None


def _flag(rows: Rows) -> bool:
    return bool(_one(rows))


def _job(rows: Rows) -> Job:
    return Job._make(rows[0])


def _jobs(rows: Rows) -> list[Job]:
    return [Job._make(row) for row in rows]


def _nothing(rows: Rows) -> None:
    return None


# --- the engine and its apps ----------------------------------------------------------------------


def version() -> Call[str]:
    """The version of the installed engine."""
    return Call("select version from hotmesh.version()", {}, _one).repeatable()


def protocol() -> Call[int]:
    """The protocol of the installed engine, to be compared with :data:`PROTOCOL`."""
    return Call("select protocol from hotmesh.protocol()", {}, _one).repeatable()


def build() -> Call[str]:
    """Which sources the installed engine was built from."""
    return Call("select build from hotmesh.build()", {}, _one).repeatable()


def app_create(app: str) -> Call[str]:
    """Create an app; answers with the name of its schema."""
    return Call(
        "select schema_name from hotmesh.app_create(app => %(app)s::text)", {"app": app}, _one
    )


def app_upgrade(app: str) -> Call[int]:
    """Bring an app's tables up to the installed engine; answers with its revision."""
    return Call(
        "select revision from hotmesh.app_upgrade(app => %(app)s::text)", {"app": app}, _one
    ).repeatable()


def app_drop(app: str, force: bool = False) -> Call[None]:
    """Drop an app with all that is in it; open jobs stop it unless `force`."""
    return Call(
        "select app_drop from hotmesh.app_drop(app => %(app)s::text, force => %(force)s)",
        {"app": app, "force": force},
        _nothing,
    )


def app_grant(app: str, role: str, kind: str) -> Call[None]:
    """Give a role the keys of a client, worker, operator or reader."""
    return Call(
        "select app_grant from hotmesh.app_grant("
        "app => %(app)s::text, role => %(role)s, kind => %(kind)s::text)",
        {"app": app, "role": role, "kind": kind},
        _nothing,
    ).repeatable()


def app_revoke(app: str, role: str) -> Call[None]:
    """Take all keys of the app from a role."""
    return Call(
        "select app_revoke from hotmesh.app_revoke(app => %(app)s::text, role => %(role)s)",
        {"app": app, "role": role},
        _nothing,
    ).repeatable()


# --- jobs -----------------------------------------------------------------------------------------

_JOB_START = """
select id, key, topic, entity, queue, status, created_at, closed_at
from hotmesh.job_start(
    app => %(app)s::text, workflow => %(workflow)s::text, key => %(key)s::text,
    args => %(args)s::jsonb, queue => %(queue)s::text, entity => %(entity)s::text,
    options => %(options)s::jsonb)
"""


def job_start(
    app: str,
    workflow: str,
    key: str | None,
    args: str,
    queue: str | None = None,
    entity: str | None = None,
    options: str = "{}",
) -> Call[Job]:
    """Start a job; `args` and `options` are JSON texts."""
    params = {
        "app": app,
        "workflow": workflow,
        "key": key,
        "args": args,
        "queue": queue,
        "entity": entity,
        "options": options,
    }
    return Call(_JOB_START, params, _job, job_id=key)


_JOB_START_MANY = """
select id, key, topic, entity, queue, status, created_at, closed_at
from hotmesh.job_start_many(app => %(app)s::text, requests => %(requests)s::jsonb)
"""


def job_start_many(app: str, requests: str) -> Call[list[Job]]:
    """Start many jobs at once; `requests` is the JSON text of a list of objects."""
    return Call(_JOB_START_MANY, {"app": app, "requests": requests}, _jobs)


def _read(sql: str, app: str, key: str, **params: Any) -> Call[Any]:
    return Call(sql, {"app": app, "key": key, **params}, _one, job_id=key).repeatable()


def job_status(app: str, key: str) -> Call[int]:
    """The semaphore of a job: 0 complete, above zero open, below zero failed."""
    return _read(
        "select job_status from hotmesh.job_status(app => %(app)s::text, key => %(key)s::text)",
        app,
        key,
    )


def job_result(app: str, key: str) -> Call[Any]:
    """What the job returned; None while it is open."""
    return _read(
        "select job_result from hotmesh.job_result(app => %(app)s::text, key => %(key)s::text)",
        app,
        key,
    )


def job_state(app: str, key: str, metadata: bool = False) -> Call[Any]:
    """The job's data, or with `metadata` an object of both."""
    return _read(
        "select job_state from hotmesh.job_state("
        "app => %(app)s::text, key => %(key)s::text, metadata => %(metadata)s)",
        app,
        key,
        metadata=metadata,
    )


def job_export(
    app: str, key: str, allow: list[str] | None = None, block: list[str] | None = None
) -> Call[Any]:
    """The job with its journal; `allow` and `block` name the parts."""
    return _read(
        "select job_export from hotmesh.job_export(app => %(app)s::text, key => %(key)s::text, "
        "allow => %(allow)s::text[], block => %(block)s::text[])",
        app,
        key,
        allow=allow,
        block=block,
    )


def job_results(app: str, keys: list[str]) -> Call[list[Outcome]]:
    """The outcomes of those of the keys whose job has closed or does not exist."""
    return Call(
        "select key, status, output, error "
        "from hotmesh.job_results(app => %(app)s::text, keys => %(keys)s::text[])",
        {"app": app, "keys": keys},
        lambda rows: [Outcome._make(row) for row in rows],
    ).repeatable()


def job_exists(app: str, key: str) -> Call[bool]:
    """Whether there is a job of this key, open or closed."""
    return Call(
        "select status is not null from hotmesh.job_results("
        "app => %(app)s::text, keys => array[%(key)s::text])",
        {"app": app, "key": key},
        lambda rows: not rows or _flag(rows),
    ).repeatable()


_JOB_LIST = """
select id, key, topic, entity, queue, status, created_at, closed_at
from hotmesh.job_list(
    app => %(app)s::text, entity => %(entity)s::text, queue => %(queue)s::text,
    state => %(state)s::text, take => %(take)s::integer, before => %(before)s::bigint)
"""


def job_list(
    app: str,
    entity: str | None = None,
    queue: str | None = None,
    state: str | None = None,
    take: int = 50,
    before: int | None = None,
) -> Call[list[Job]]:
    """The newest jobs; `state` is open, complete or failed, `before` the id where a page ended."""
    params = {
        "app": app,
        "entity": entity,
        "queue": queue,
        "state": state,
        "take": take,
        "before": before,
    }
    return Call(_JOB_LIST, params, _jobs).repeatable()


def job_history(app: str, key: str, dimension: str = "", after: int = BEFORE_ALL) -> Call[Any]:
    """A page of a job's journal after step `after`; its last entry is None when there is more."""
    return _read(
        "select job_history from hotmesh.job_history(app => %(app)s::text, key => %(key)s::text, "
        "dimension => %(dimension)s::text, after => %(after)s::integer)",
        app,
        key,
        dimension=dimension,
        after=after,
    )


def job_archive(app: str, take: int = 10_000) -> Call[int]:
    """Move up to `take` closed jobs past their expiry to the archive; answers how many went."""
    return Call(
        "select job_archive from hotmesh.job_archive("
        "app => %(app)s::text, take => %(take)s::integer)",
        {"app": app, "take": take},
        _one,
    ).repeatable()


def job_prune(app: str, keep: float) -> Call[int]:
    """Drop archive partitions that ended `keep` seconds ago; answers how many went."""
    return Call(
        "select job_prune from hotmesh.job_prune(app => %(app)s::text, "
        "keep => make_interval(secs => %(keep)s::double precision))",
        {"app": app, "keep": keep},
        _one,
    ).repeatable()


# --- the stream -----------------------------------------------------------------------------------


def stream_claim(
    app: str, queue: str, worker: str, take: int = 1, lease: float = 15.0
) -> Call[list[Message]]:
    """Claim up to `take` messages of a queue for `lease` seconds."""
    return Call(
        "select id, token, name, args, attempt, key from hotmesh.stream_claim("
        "app => %(app)s::text, queue => %(queue)s::text, worker => %(worker)s::text, "
        "take => %(take)s::integer, lease => make_interval(secs => %(lease)s::double precision))",
        {"app": app, "queue": queue, "worker": worker, "take": take, "lease": lease},
        lambda rows: [Message._make(row) for row in rows],
    )


def stream_hold(app: str, id: int, token: int) -> Call[str]:
    """Lock a message for this transaction: `ok`, `held` when it has it already, or `stale`."""
    return Call(
        "select stream_hold from hotmesh.stream_hold("
        "app => %(app)s::text, id => %(id)s::bigint, token => %(token)s::integer)",
        {"app": app, "id": id, "token": token},
        _one,
    )


def stream_complete(app: str, id: int, token: int, output: str) -> Call[str]:
    """Report a result (a JSON text): `ok`, or `stale` when the token is no longer current."""
    return Call(
        "select stream_complete from hotmesh.stream_complete(app => %(app)s::text, "
        "id => %(id)s::bigint, token => %(token)s::integer, output => %(output)s::jsonb)",
        {"app": app, "id": id, "token": token, "output": output},
        _one,
    )


def stream_fail(
    app: str,
    id: int,
    token: int,
    error: str,
    retry_policy: str | None = None,
    details: str | None = None,
) -> Call[str]:
    """Report a failure: `ok` or `stale`; error, the worker's policy and details are JSON texts."""
    return Call(
        "select stream_fail from hotmesh.stream_fail(app => %(app)s::text, "
        "id => %(id)s::bigint, token => %(token)s::integer, error => %(error)s::jsonb, "
        "retry_policy => %(policy)s::jsonb, details => %(details)s::jsonb)",
        {
            "app": app,
            "id": id,
            "token": token,
            "error": error,
            "policy": retry_policy,
            "details": details,
        },
        _one,
    )


def stream_extend(
    app: str, id: int, token: int, lease: float, details: str | None = None
) -> Call[str]:
    """Keep a message for `lease` seconds from now: `ok` or `stale`; `details` is a JSON text."""
    return Call(
        "select stream_extend from hotmesh.stream_extend(app => %(app)s::text, "
        "id => %(id)s::bigint, token => %(token)s::integer, "
        "lease => make_interval(secs => %(lease)s::double precision), "
        "details => %(details)s::jsonb)",
        {"app": app, "id": id, "token": token, "lease": lease, "details": details},
        _one,
    ).repeatable()


def stream_revive(app: str, id: int) -> Call[None]:
    """Make a dead message ready again, with fresh attempts."""
    return Call(
        "select stream_revive from hotmesh.stream_revive("
        "app => %(app)s::text, id => %(id)s::bigint)",
        {"app": app, "id": id},
        _nothing,
    )


# --- workers --------------------------------------------------------------------------------------

_TURN = """
select answer, id, token, kind, queue, name, job_id, key, dimension, sequence, attempt, args,
    cursor, history, started, due, signal, base
from hotmesh.turn(
    app => %(app)s::text, worker => %(worker)s::text,
    reports => %(reports)s::jsonb, want => %(want)s::jsonb)
"""


def turn(app: str, worker: str, reports: str = "[]", want: str = "{}") -> Call[list[Delivery]]:
    """Report and ask for work, in one round trip and one commit; both are JSON texts."""
    return Call(
        _TURN,
        {"app": app, "worker": worker, "reports": reports, "want": want},
        lambda rows: [Delivery._make(row) for row in rows],
    )


def worker_extend(app: str, worker: str, ids: list[int], lease: float) -> Call[list[int]]:
    """Keep the leases of these messages for `lease` seconds; answers with those that were kept."""
    return Call(
        "select worker_extend from hotmesh.worker_extend("
        "app => %(app)s::text, worker => %(worker)s::text, ids => %(ids)s::bigint[], "
        "lease => make_interval(secs => %(lease)s::double precision))",
        {"app": app, "worker": worker, "ids": ids, "lease": lease},
        lambda rows: _one(rows) or [],
    ).repeatable()


def worker_heartbeat(
    app: str, worker: str, beats: str, lease: float
) -> Call[list[tuple[int, str]]]:
    """Signs of life of activities, a JSON text; for each its id and ok, stale or busy."""
    return Call(
        "select id, answer from hotmesh.worker_heartbeat("
        "app => %(app)s::text, worker => %(worker)s::text, beats => %(beats)s::jsonb, "
        "lease => make_interval(secs => %(lease)s::double precision))",
        {"app": app, "worker": worker, "beats": beats, "lease": lease},
        lambda rows: [(row[0], row[1]) for row in rows],
    ).repeatable()


def worker_stop(app: str, worker: str, ids: list[int]) -> Call[int]:
    """Hand back the leases of these messages and sign off; answers how many were handed back."""
    return Call(
        "select worker_stop from hotmesh.worker_stop("
        "app => %(app)s::text, worker => %(worker)s::text, ids => %(ids)s::bigint[])",
        {"app": app, "worker": worker, "ids": ids},
        _one,
    ).repeatable()
