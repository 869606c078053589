"""What every command takes: which database, which app, and for whom to write."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from .. import _session
from .. import client as clients
from .._requests import Workflow
from .screen import Screen

__all__ = ["DEFAULT_APP", "Place", "json_object", "note", "placed", "value_of"]

DEFAULT_APP = "memflow"


@dataclass(frozen=True)
class Place:
    """The options that every command takes."""

    dsn: str | None
    app: str
    screen: Screen

    @contextmanager
    def session(self, provision: bool = False) -> Iterator[_session.SyncSession]:
        """Connections to the database; a command that only looks does not provision."""
        session = _session.SyncSession(self.dsn, self.app, provision=provision)
        try:
            yield session
        finally:
            session.close()

    @contextmanager
    def client(self, provision: bool = False) -> Iterator[clients.SyncClient]:
        """A client on such a session."""
        with self.session(provision) as session:
            yield clients.SyncClient(session=session)

    @contextmanager
    def handle(
        self, key: str, workflow: Workflow | None = None
    ) -> Iterator[clients.SyncWorkflowHandle[Any]]:
        """The handle of a job."""
        with self.client() as made:
            yield made.workflow.get_handle(workflow_name=workflow, workflow_id=key)

    def tell(self, document: object, line: str) -> None:
        """What was done: the document for machines, the line for people."""
        if self.screen.as_json:
            self.screen.document(document)
        else:
            self.screen.line(line)


def placed(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command those options, as its first argument, a :class:`Place`."""

    @click.option("--dsn", metavar="DSN", help="The database; else DATABASE_URL, else embedded.")
    @click.option("--app", default=DEFAULT_APP, show_default=True, help="The app.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
    @functools.wraps(command)
    def with_place(dsn: str | None, app: str, as_json: bool, **rest: Any) -> None:
        command(Place(dsn, app, Screen(as_json)), **rest)

    return with_place


def note(text: str) -> None:
    """A line beside the output, on standard error."""
    click.echo(text, err=True)


def value_of(text: str) -> Any:
    """JSON if it is JSON, else the text itself."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def json_object(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    """A callback for options that are retry policies."""
    policy = None if text is None else value_of(text)
    if policy is not None and not isinstance(policy, dict):
        raise click.BadParameter('it is a JSON object, such as {"maximum_attempts": 5}')
    return policy
