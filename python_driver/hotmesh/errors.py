"""The exceptions of HotMesh: one tree, one class per SQLSTATE of the engine.

::

    HotMeshError
    ├── InvalidArgumentError (ValueError)        22023   a value that cannot be used
    │   ├── PayloadTooLargeError                 MSH43   a value past the limit
    │   └── GraphError                           MSH20   a graph that cannot be used, and why
    ├── NotAllowedError (PermissionError)        42501   the role lacks the key for this door
    ├── AppNotFoundError                         MSH00
    ├── AppExistsError                           MSH01
    ├── AppBusyError                             MSH02   the app still has open jobs
    ├── AppNameTakenError                        MSH03   the app's schema belongs to somebody else
    ├── GraphVersionError                        MSH21   a version that can't be active
    ├── TopicNotFoundError                       MSH22   404: no active graph answers it
    ├── MessageNotFoundError                     MSH30   no such stream message
    ├── JobNotFoundError                         MSH40   404
    ├── DuplicateJobError                        MSH41   409
    ├── JobClosedError                           MSH42   the job has ended
    ├── JobOpenError                             MSH44   an open job cannot be replaced or scrubbed
    ├── LedgerError                              MSH50   a ledger only grows
    ├── EntityError                                      a command that an entity can't take
    │   ├── EntityTypeError                      MSH80   another type is at the path
    │   ├── EntityIndexError (IndexError)        MSH81   the array has no such element
    │   ├── EntityDepthError                     MSH82   it would be nested too deep
    │   ├── EntityTooLargeError                  MSH83   it would be past the limit
    │   ├── EntityArchivedError                  MSH84   the job is in the archive
    │   └── EntityVersionError                   MSH85   no such version, or not in the log
    ├── ConstraintError                          23xxx   a constraint of the owner refused it
    ├── ScheduleNotFoundError                    MSH86   404
    ├── ScheduleExistsError                      MSH87   409
    ├── JobFailedError                           MSH46   a job, or a step of it, came to a bad end
    │   ├── FatalError                                   598: not to be retried
    │   ├── MaxedError                                   597: every attempt was used up
    │   ├── JobTimedOutError (TimedOutError)             596: the job failed by a time-out
    │   ├── JobInterruptedError                          410
    │   └── JobCancelledError                            499
    ├── TimedOutError (TimeoutError)                     596 for a time-out of the work,
    │                                                    504 when only the waiting ended
    ├── ActivityError                                    an exception of a class unknown here
    ├── NonDeterminismError                              a replay met another history
    ├── ForbiddenInWorkflow                              I/O or a thread in workflow code
    ├── PayloadCodecError                                a payload that can't be opened or sealed
    ├── ConnectionLostError                              no connection, or lost in the middle
    ├── NotInstalledError                                a database without the engine
    ├── ProtocolError                                    an engine of another protocol
    └── EmbeddedError                                    the embedded server could not be used

Three seams: :func:`from_sql` reads a psycopg error, :func:`to_json` and :func:`from_json` carry any
exception through the database, and :func:`job_failure` says how a job ended.
"""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import psycopg

from ._error_texts import (
    HINTS,
    LEADS,
    clean,
    code_of,
    faults_of,
    is_misfit,
    loose,
    message_of,
    text_of,
    told_faults,
    trace_of,
    unquoted,
)

__all__ = [
    "ActivityError",
    "AppBusyError",
    "AppExistsError",
    "AppNameTakenError",
    "AppNotFoundError",
    "ConnectionLostError",
    "ConstraintError",
    "DuplicateJobError",
    "EmbeddedError",
    "EntityArchivedError",
    "EntityDepthError",
    "EntityError",
    "EntityIndexError",
    "EntityTooLargeError",
    "EntityTypeError",
    "EntityVersionError",
    "FatalError",
    "ForbiddenInWorkflow",
    "GraphError",
    "GraphVersionError",
    "HotMeshError",
    "InvalidArgumentError",
    "JobCancelledError",
    "JobClosedError",
    "JobFailedError",
    "JobInterruptedError",
    "JobNotFoundError",
    "JobOpenError",
    "JobTimedOutError",
    "LedgerError",
    "MaxedError",
    "MessageNotFoundError",
    "NonDeterminismError",
    "NotAllowedError",
    "NotInstalledError",
    "PayloadCodecError",
    "PayloadTooLargeError",
    "ProtocolError",
    "ScheduleExistsError",
    "ScheduleNotFoundError",
    "TimedOutError",
    "TopicNotFoundError",
    "by_sqlstate",
    "from_json",
    "from_sql",
    "job_failure",
    "to_json",
]

MESSAGE_LIMIT = 8_000
"""Characters of a message, detail or hint that are carried through the database."""

TRACEBACK_LIMIT = 16_000
"""Characters of a traceback that are carried; its middle is left out first."""

CAUSE_LIMIT = 5
"""How many causes below an exception are carried."""

_BY_SQLSTATE: dict[str, type[HotMeshError]] = {}
_BY_NAME: dict[str, type[HotMeshError]] = {}


class HotMeshError(Exception):
    """Everything that HotMesh raises. `str(error)` is the message, in one sentence.

    `code` is an HTTP-like number, `sqlstate` the database's code when it spoke, `type` the name of
    the class that was raised first (it survives retries and other processes), `detail` facts, `hint`
    what to do next, `job_id` the workflow id where one is concerned, `traceback` the text of the
    process that failed.
    """

    code: int = 500
    sqlstate: str | None = None

    def __init_subclass__(
        cls, *, sqlstate: str | None = None, code: int | None = None, **rest: Any
    ) -> None:
        super().__init_subclass__(**rest)
        if code is not None:
            cls.code = code
        if sqlstate is not None:
            cls.sqlstate = sqlstate
            _BY_SQLSTATE[sqlstate] = cls
        if cls.__module__ == __name__:
            _BY_NAME[cls.__name__] = cls

    def __init__(
        self,
        message: str = "",
        *,
        code: int | None = None,
        type: str | None = None,
        detail: str | None = None,
        hint: str | None = None,
        job_id: str | None = None,
        sqlstate: str | None = None,
        traceback: str | None = None,
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if sqlstate is not None:
            self.sqlstate = sqlstate
        self.type: str = type or self.__class__.__name__
        self.detail = detail
        self.hint = hint
        self.job_id = job_id
        self.traceback = traceback

    @property
    def message(self) -> str:
        """The message, as `str(error)` gives it."""
        return str(self)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class InvalidArgumentError(HotMeshError, ValueError, sqlstate="22023", code=400):
    """A value that cannot be used; the message names the value and its place."""


class PayloadTooLargeError(InvalidArgumentError, sqlstate="MSH43", code=413):
    """A value past the limit of the app; the message has name, size and limit."""


class GraphError(InvalidArgumentError, sqlstate="MSH20", code=422):
    """A graph that cannot be used. `faults` has all that is wrong with it."""

    @property
    def faults(self) -> list[dict[str, Any]]:
        """Each with `path` and `reason`, and where it is written: `file`, `line` and `column`."""
        return faults_of(self.detail)

    @classmethod
    def of(cls, faults: Sequence[Mapping[str, Any]]) -> GraphError:
        """The error with these faults; its message has them too, one to a line."""
        return cls(told_faults(faults), detail=json.dumps(list(faults), ensure_ascii=False))


class NotAllowedError(HotMeshError, PermissionError, sqlstate="42501", code=403):
    """The database role may not do this; `hotmesh.app_grant` hands out the keys."""


class AppNotFoundError(HotMeshError, sqlstate="MSH00", code=404):
    """No app of this name."""


class AppExistsError(HotMeshError, sqlstate="MSH01", code=409):
    """An app of this name, or of one that folds to the same schema, exists."""


class AppBusyError(HotMeshError, sqlstate="MSH02", code=409):
    """The app has open jobs."""


class AppNameTakenError(HotMeshError, sqlstate="MSH03", code=409):
    """The schema that the app would have exists, and is no app's."""


class GraphVersionError(HotMeshError, sqlstate="MSH21", code=409):
    """A version of an app's graphs that was not deployed, or was replaced by a later one."""


class TopicNotFoundError(HotMeshError, sqlstate="MSH22", code=404):
    """No active graph subscribes to the topic, or has a hook that waits for it."""


class MessageNotFoundError(HotMeshError, sqlstate="MSH30", code=404):
    """No stream message of this id."""


class JobNotFoundError(HotMeshError, sqlstate="MSH40", code=404):
    """No job of this workflow id, or it was scrubbed."""


class DuplicateJobError(HotMeshError, sqlstate="MSH41", code=409):
    """The workflow id is taken, by an open job or a closed one."""


class JobClosedError(HotMeshError, sqlstate="MSH42", code=409):
    """The job has ended, and takes nothing more."""


class JobOpenError(HotMeshError, sqlstate="MSH44", code=409):
    """The job is open, and only a closed one can be replaced or scrubbed."""


class LedgerError(HotMeshError, sqlstate="MSH50", code=409):
    """Somebody tried to take back what a ledger has recorded."""


class EntityError(HotMeshError, code=422):
    """An entity could not take a command; it stays as it was."""


class EntityTypeError(EntityError, sqlstate="MSH80"):
    """The command needs another type than what is at its path."""


class EntityIndexError(EntityError, IndexError, sqlstate="MSH81"):
    """The array at the path has no such element."""


class EntityDepthError(EntityError, sqlstate="MSH82"):
    """The document would be nested too deep."""


class EntityTooLargeError(EntityError, sqlstate="MSH83", code=413):
    """The document would be larger than the app allows."""


class EntityArchivedError(EntityError, sqlstate="MSH84", code=410):
    """The job is in the archive, where its entity can only be read."""


class EntityVersionError(EntityError, sqlstate="MSH85", code=404):
    """The entity has no such version, or its log does not reach back that far."""


class ConstraintError(HotMeshError, code=409):
    """A constraint or trigger that the owner put on a table refused it; `sqlstate` is 23xxx or P0001."""


class ScheduleNotFoundError(HotMeshError, sqlstate="MSH86", code=404):
    """There is no schedule of this name."""


class ScheduleExistsError(HotMeshError, sqlstate="MSH87", code=409):
    """There is a schedule of this name already."""


class JobFailedError(HotMeshError, sqlstate="MSH46", code=500):
    """A job, or a step of one, came to a bad end; `type` and `__cause__` say what was raised."""


class FatalError(JobFailedError, code=598):
    """Raise it in an activity to say: do not try again."""


class MaxedError(JobFailedError, code=597):
    """Every attempt was used up; `type`, `message` and `__cause__` are the last attempt's."""


class JobInterruptedError(JobFailedError, code=410):
    """The job was stopped from outside."""


class JobCancelledError(JobFailedError, code=499):
    """The job was asked to end, and did."""


class TimedOutError(HotMeshError, TimeoutError, code=596):
    """Time is up. Code 596: the work itself was given up. Code 504: only the waiting ended."""


class JobTimedOutError(JobFailedError, TimedOutError, code=596):
    """The job failed because a step of it ran out of time."""


class ActivityError(HotMeshError):
    """An exception from another process, of a class unknown here; `type` is its name."""


class NonDeterminismError(HotMeshError):
    """A replay met another command than its history holds; the job waits for the right code."""


class ForbiddenInWorkflow(HotMeshError):
    """Workflow code tried what a replay cannot repeat: I/O, a thread, a wall clock."""


class PayloadCodecError(HotMeshError):
    """A payload is sealed and can't be opened here, or can't be sealed."""


class ConnectionLostError(HotMeshError, code=503):
    """No connection to the database, or it broke before the answer came."""


class NotInstalledError(HotMeshError, code=503):
    """The database has no HotMesh engine; `hotmesh install` puts it there."""


class ProtocolError(HotMeshError, code=505):
    """Engine and driver do not fit: another protocol, other tables, a door that the other lacks."""


class EmbeddedError(HotMeshError, code=503):
    """The embedded Postgres could not be found, started or used."""


def by_sqlstate() -> dict[str, type[HotMeshError]]:
    """Every SQLSTATE that has a class of its own."""
    return dict(_BY_SQLSTATE)


# --- from the database ----------------------------------------------------------------------------

LOST = frozenset({"57P01", "57P02", "57P03", "57P05", "53300"})
"""SQLSTATEs, next to class 08, that say: the connection is gone or cannot be had now."""


def is_lost(error: psycopg.Error) -> bool:
    """Whether the error means that there is no connection (any more)."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate in LOST or error.sqlstate.startswith("08")


def from_sql(error: psycopg.Error, job_id: str | None = None) -> HotMeshError:
    """The exception that mirrors a database error; the original is its `__cause__`."""
    diag = error.diag
    message = diag.message_primary or str(error).strip() or type(error).__name__
    kind = _class_of(error, message)
    if job_id is None and (error.sqlstate or "").startswith("MSH4"):
        job_id = _quoted(message)
    if kind is DuplicateJobError and job_id is not None:
        message = f"Duplicate job: {job_id}"
    found = kind(
        LEADS.get(kind.__name__, "") + message,
        detail=diag.message_detail,
        hint=diag.message_hint or HINTS.get(kind.__name__),
        job_id=job_id,
        sqlstate=error.sqlstate,
    )
    found.__cause__ = error
    return found


def _is_owners(state: str) -> bool:
    """Whether a constraint or a trigger's `raise exception` speaks; the engine's own have codes."""
    return state.startswith("23") or state == "P0001"


def _class_of(error: psycopg.Error, message: str) -> type[HotMeshError]:
    state = error.sqlstate or ""
    if state in _BY_SQLSTATE:
        return _BY_SQLSTATE[state]
    if is_lost(error):
        return ConnectionLostError
    if _is_owners(state):
        return ConstraintError
    if state == "3F000" and "hotmesh" in message:
        return NotInstalledError
    if is_misfit(state, message, error.diag.context):
        return ProtocolError
    if state in ("", "22021", "22P02", "22P05") and isinstance(error, psycopg.DataError):
        return InvalidArgumentError
    return HotMeshError


def _quoted(message: str) -> str | None:
    found = re.search(r'"(.*)"', message) or re.search(r"[Dd]uplicate job: (.+)", message)
    return found.group(1) if found else None


# --- through the database -------------------------------------------------------------------------


def to_json(error: BaseException) -> dict[str, Any]:
    """What the journal keeps of an exception: bounded in size, and safe for any text.

    Keys: `type`, `message`, `code`, and where there is something to say `traceback`, `detail`,
    `hint`, `cause` (the same shape). An exception whose `str()` raises costs its message only.
    """
    return _describe(error, CAUSE_LIMIT, {id(error)})


def _describe(error: BaseException, depth: int, seen: set[int]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "type": clean(_attribute(error, "type") or type(error).__name__, 200),
        "message": clean(text_of(error) + _members_of(error), MESSAGE_LIMIT),
        "code": code_of(
            {"code": getattr(error, "code", None)} if isinstance(error, HotMeshError) else {}
        )
        or 500,
    }
    if trace := _attribute(error, "traceback") or trace_of(error):
        told["traceback"] = clean(trace, TRACEBACK_LIMIT)
    for name in ("detail", "hint"):
        if value := _attribute(error, name):
            told[name] = clean(value, MESSAGE_LIMIT)
    cause = _cause_of(error)
    if cause is not None and depth > 0 and id(cause) not in seen:
        told["cause"] = _describe(cause, depth - 1, seen | {id(cause)})
    return told


def _members_of(error: BaseException) -> str:
    """What happened, of a group: a task group says only how much."""
    found = getattr(error, "exceptions", None) if type(error).__name__.endswith("Group") else None
    told = [f"{type(each).__name__}: {text_of(each)}" for each in found or ()]
    return ": " + "; ".join(told) if told else ""


def _attribute(error: BaseException, name: str) -> str | None:
    value = getattr(error, name, None) if isinstance(error, HotMeshError) else None
    return value if isinstance(value, str) else None


def _cause_of(error: BaseException) -> BaseException | None:
    """The cause worth telling: the one of the original where the error only wraps it."""
    cause = error.__cause__
    if cause is None and not error.__suppress_context__:
        cause = error.__context__
    if cause is not None and _wraps(error, cause):
        return _cause_of(cause)
    return cause


def _wraps(error: BaseException, cause: BaseException) -> bool:
    """Whether the error stands for its cause under another code, as `MaxedError` does."""
    if not isinstance(error, HotMeshError) or error.type == type(error).__name__:
        return False
    return error.type == (_attribute(cause, "type") or type(cause).__name__)


_BY_CODE: dict[int, type[HotMeshError]] = {
    596: TimedOutError,
    597: MaxedError,
    598: FatalError,
    410: JobInterruptedError,
}

_ENDS = (JobInterruptedError, JobCancelledError)
"""What was decided from outside keeps its class, whatever its code."""


def from_json(data: object, job_id: str | None = None) -> Exception:
    """The exception that :func:`to_json` (or a worker in another language) described.

    Codes 596, 597, 598 and 410 give `TimedOutError`, `MaxedError`, `FatalError` and
    `JobInterruptedError`, with the original as `__cause__`. Else a class of this module or a plain
    builtin is rebuilt by its name, and what remains becomes an :class:`ActivityError` with the name
    in `type`.
    """
    told = data if isinstance(data, Mapping) else {"message": loose(data)}
    wrapper = _BY_CODE.get(code_of(told) or 0)
    if wrapper is None:
        return _original(told, job_id)
    name = told.get("type")
    if isinstance(name, str) and issubclass(_BY_NAME.get(name, HotMeshError), (wrapper, *_ENDS)):
        return _original(told, job_id)
    found = _build(wrapper, told, job_id)
    if isinstance(name, str):
        found.__cause__ = _original({**told, "code": None}, job_id)
    return found


def job_failure(data: object, job_id: str) -> JobFailedError:
    """How a job ended, as the exception that `result()` raises."""
    found = from_json(data, job_id)
    if isinstance(found, JobFailedError):
        return found
    told = data if isinstance(data, Mapping) else {"message": loose(data)}
    if isinstance(found, TimedOutError):
        failure: JobFailedError = _build(JobTimedOutError, told, job_id)
        failure.__cause__ = found.__cause__
        return failure
    failure = _build(JobFailedError, told, job_id)
    failure.__cause__ = found
    return failure


def _original(told: Mapping[str, Any], job_id: str | None) -> Exception:
    name, state = told.get("type"), told.get("sqlstate")
    found: Exception | None = None
    if name is None and isinstance(state, str) and state in _BY_SQLSTATE:
        found = _build(_BY_SQLSTATE[state], told, job_id)
    elif name is None and isinstance(state, str) and _is_owners(state):
        found = _build(ConstraintError, told, job_id)
    elif isinstance(name, str):
        found = _build(_BY_NAME[name], told, job_id) if name in _BY_NAME else _builtin(name, told)
    if found is None:
        found = _build(ActivityError, told, job_id)
    cause = told.get("cause")
    if isinstance(cause, Mapping):
        found.__cause__ = from_json(cause)
    return found


_Error = TypeVar("_Error", bound=HotMeshError)


def _build(kind: type[_Error], told: Mapping[str, Any], job_id: str | None) -> _Error:
    def text(name: str) -> str | None:
        value = told.get(name)
        return value if value is None or isinstance(value, str) else loose(value)

    return kind(
        message_of(told),
        code=code_of(told),
        type=text("type"),
        detail=text("detail"),
        hint=text("hint"),
        job_id=job_id,
        sqlstate=text("sqlstate"),
        traceback=text("traceback"),
    )


_NEVER_REBUILT = frozenset({"StopIteration", "StopAsyncIteration", "ExceptionGroup"})
"""Builtins that mean something to the interpreter, or need more than a message."""


def _builtin(name: str, told: Mapping[str, Any]) -> Exception | None:
    kind = getattr(builtins, name, None)
    if not isinstance(kind, type) or not issubclass(kind, Exception) or name in _NEVER_REBUILT:
        return None
    message = message_of(told)
    try:
        return kind(unquoted(message) if kind is KeyError else message)
    except TypeError:  # UnicodeDecodeError and its kin take five arguments
        return None
