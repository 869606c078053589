"""The exception tree: what the database says, and what travels through it."""

from __future__ import annotations

import inspect
import json
import pickle
import re
import sys
from pathlib import Path

import psycopg
import pytest

from hotmesh import errors
from hotmesh.errors import (
    ActivityError,
    FatalError,
    HotMeshError,
    JobCancelledError,
    JobFailedError,
    JobInterruptedError,
    JobTimedOutError,
    MaxedError,
    TimedOutError,
    from_json,
    from_sql,
    job_failure,
    to_json,
)

SQL = Path(__file__).parents[2] / "sql"


def raised(error: BaseException) -> BaseException:
    """The error with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def carried(error: BaseException, **changes: object) -> Exception:
    """What arrives in another process."""
    return from_json(json.loads(json.dumps({**to_json(raised(error)), **changes})))


def database_error(db: psycopg.Connection, statement: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        db.execute(statement.encode())
    return caught.value


# --- the tree ---


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = set(re.findall(r"── (\w+)", errors.__doc__ or ""))
    classes = {
        n for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, Exception)
    }
    assert drawn == classes - {"HotMeshError"}


def test_every_code_that_sql_raises_has_a_class_and_every_class_is_raised() -> None:
    text = "".join(room.read_text() for room in SQL.glob("*.sql"))
    in_sql = set(re.findall(r"'(MSH\d\d)'", text))
    assert in_sql == {code for code in errors.by_sqlstate() if code.startswith("MSH")}


@pytest.mark.parametrize(
    ("name", "code", "base"),
    [
        ("FatalError", 598, JobFailedError),
        ("MaxedError", 597, JobFailedError),
        ("TimedOutError", 596, TimeoutError),
        ("JobInterruptedError", 410, JobFailedError),
        ("JobNotFoundError", 404, HotMeshError),
        ("InvalidArgumentError", 400, ValueError),
        ("NotAllowedError", 403, PermissionError),
        ("JobTimedOutError", 596, TimedOutError),
    ],
)
def test_codes_and_builtin_bases(name: str, code: int, base: type[Exception]) -> None:
    error = getattr(errors, name)("why")
    assert (error.code, str(error), error.type) == (code, "why", name)
    assert isinstance(error, base)
    assert isinstance(error, HotMeshError)


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(TimedOutError("late", code=504, job_id="order-1", hint="h")))
    assert (str(error), error.code, error.job_id, error.hint) == ("late", 504, "order-1", "h")


def test_the_end_of_the_waiting_is_not_taken_for_the_failure_of_the_job() -> None:
    assert not issubclass(TimedOutError, JobFailedError)
    assert issubclass(JobTimedOutError, JobFailedError)


# --- from the database ---


@pytest.mark.parametrize("sqlstate", sorted(errors.by_sqlstate()))
def test_each_sqlstate_becomes_its_class(db: psycopg.Connection, sqlstate: str) -> None:
    error = database_error(
        db,
        f"do $$ begin raise exception 'job \"a \"\" b\" is odd' using errcode = '{sqlstate}', "
        "detail = 'Facts.', hint = 'Do this.'; end $$",
    )
    found = from_sql(error)
    assert type(found) is errors.by_sqlstate()[sqlstate]
    assert (found.sqlstate, found.detail, found.hint) == (sqlstate, "Facts.", "Do this.")
    assert found.__cause__ is error


def test_a_duplicate_job_is_named_as_the_contract_says(db: psycopg.Connection) -> None:
    start = "select key from hotmesh.job_start('my-app', 'f', key => 'order-1')"
    db.execute(start)
    found = from_sql(database_error(db, start))
    assert (str(found), found.job_id) == ("Duplicate job: order-1", "order-1")


def test_a_database_without_the_engine_is_named(server: object) -> None:
    with server.database() as name, psycopg.connect(server.conninfo(name)) as bare:  # type: ignore[attr-defined]
        found = from_sql(database_error(bare, "select hotmesh.protocol()"))
    assert isinstance(found, errors.NotInstalledError)
    assert str(found).startswith("this database has no engine")
    assert "hotmesh install" in (found.hint or "")


def test_who_has_no_key_is_told_how_one_is_given(stranger: psycopg.Connection) -> None:
    found = from_sql(database_error(stranger, "select hotmesh.job_start('my-app', 'f')"))
    assert isinstance(found, errors.NotAllowedError)
    assert "app_grant" in (found.hint or "")


def test_a_missing_door_means_another_protocol(db: psycopg.Connection) -> None:
    found = from_sql(database_error(db, "select hotmesh.no_such_door()"))
    assert isinstance(found, errors.ProtocolError)


def test_what_the_engine_lacks_is_a_misfit_and_what_a_trigger_of_the_user_s_lacks_is_not(
    db: psycopg.Connection,
) -> None:
    start = "select key from hotmesh.job_start('my-app', 'f', key => 'a')"
    with db.transaction(force_rollback=True):
        db.execute("alter table hotmesh.jobs rename column entity to thing")
        with db.transaction(force_rollback=True):
            engine = database_error(db, start)
    assert isinstance(from_sql(engine), errors.ProtocolError)
    db.execute(
        "create function my_app.look() returns trigger language plpgsql as "
        "'begin perform nothing_of_this_name(); return new; end'"
    )
    db.execute(
        "create trigger look before insert on my_app.jobs for each row execute function my_app.look()"
    )
    assert type(from_sql(database_error(db, start))) is HotMeshError


def test_other_sqlstates_are_kept(db: psycopg.Connection) -> None:
    found = from_sql(database_error(db, "select 1/0"))
    assert (type(found), found.sqlstate, str(found)) == (HotMeshError, "22012", "division by zero")


# --- through the database ---


def test_a_builtin_keeps_type_message_and_cause() -> None:
    try:
        try:
            {}["sku"]  # type: ignore[index]
        except KeyError as cause:
            raise ValueError("no such item") from cause
    except ValueError as error:
        arrived = carried(error)
    assert repr(arrived) == "ValueError('no such item')"
    assert repr(arrived.__cause__) == "KeyError('sku')"


def test_used_up_attempts_keep_the_original_as_the_cause() -> None:
    arrived = carried(ValueError("no such item"), code=597)
    assert isinstance(arrived, MaxedError)
    assert (str(arrived), arrived.type, arrived.code) == ("no such item", "ValueError", 597)
    assert repr(arrived.__cause__) == "ValueError('no such item')"
    assert "test_errors.py" in (arrived.traceback or "")


def test_a_fatal_error_arrives_as_itself() -> None:
    arrived = carried(FatalError("card refused", detail="4711"))
    assert type(arrived) is FatalError
    assert (str(arrived), arrived.detail, arrived.__cause__) == ("card refused", "4711", None)


def test_a_wrapped_error_is_told_once_however_often_it_travels() -> None:
    first = carried(ValueError("no"), code=597)
    second = carried(first)
    assert isinstance(second, MaxedError)
    assert repr(second.__cause__) == "ValueError('no')"
    assert second.__cause__ is not None
    assert second.__cause__.__cause__ is None


def test_a_class_of_the_user_arrives_as_activity_error_with_its_name() -> None:
    class CardRefused(Exception):
        pass

    arrived = carried(CardRefused("limit"))
    assert isinstance(arrived, ActivityError)
    assert (arrived.type, str(arrived)) == ("CardRefused", "limit")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration(1)])
def test_what_would_end_the_process_arrives_as_an_ordinary_exception(error: BaseException) -> None:
    arrived = carried(error)
    assert type(arrived) is ActivityError
    assert arrived.type == type(error).__name__


def test_a_builtin_with_many_arguments_arrives_with_its_name() -> None:
    arrived = carried(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))
    assert isinstance(arrived, ActivityError)
    assert arrived.type == "UnicodeDecodeError"


def test_an_exception_whose_text_fails_costs_its_message_only() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    told = to_json(raised(Mute()))
    assert told["type"] == "Mute"
    assert "RuntimeError" in told["message"]


def test_text_that_postgres_cannot_store_is_written_out(db: psycopg.Connection) -> None:
    told = to_json(ValueError("a\x00b\ud800"))
    row = db.execute("select %s::jsonb ->> 'message'", [json.dumps(told)]).fetchone()
    assert row == ("a\\x00b\\ud800",)


def test_sizes_are_bounded() -> None:
    error = raised(ValueError("x" * 1_000_000))
    for _ in range(50):
        cause, error = error, raised(ValueError("x" * 1_000_000))
        error.__cause__ = cause
    assert len(json.dumps(to_json(error))) < 300_000


def test_a_cycle_of_causes_ends() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert "cause" not in to_json(one)["cause"]


@pytest.mark.parametrize("data", [None, "boom", 7, [1], {}, {"message": {"a": 1}, "code": "x"}])
def test_what_other_workers_send_never_breaks_the_reader(data: object) -> None:
    assert isinstance(from_json(data), ActivityError)


# --- how a job ended ---


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"type": "ValueError", "message": "no", "code": 500}, JobFailedError),
        ({"type": "ValueError", "message": "no", "code": 597}, MaxedError),
        ({"type": "ValueError", "message": "no", "code": 598}, FatalError),
        ({"type": "TimedOutError", "message": "no", "code": 596}, JobTimedOutError),
        ({"type": "JobInterruptedError", "message": "no", "code": 410}, JobInterruptedError),
        ({"type": "JobCancelledError", "message": "no", "code": 598}, JobCancelledError),
    ],
)
def test_an_outcome_has_the_class_of_its_code(data: dict[str, object], kind: type) -> None:
    failure = job_failure(data, "order-1")
    assert type(failure) is kind
    assert (str(failure), failure.job_id, failure.code) == ("no", "order-1", data["code"])


def test_a_failed_job_names_what_its_workflow_raised() -> None:
    failure = job_failure(to_json(ValueError("no")), "order-1")
    assert (failure.type, failure.code) == ("ValueError", 500)
    assert repr(failure.__cause__) == "ValueError('no')"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")
def test_a_group_tells_what_is_in_it() -> None:
    group = ExceptionGroup("two", [ValueError("boom"), KeyError("k")])  # noqa: F821
    told = errors.to_json(group)
    assert told["type"] == "ExceptionGroup"
    assert told["message"] == "two (2 sub-exceptions): ValueError: boom; KeyError: 'k'"
