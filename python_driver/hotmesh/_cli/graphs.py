"""Graphs from the shell: `hotmesh deploy`, `activate`, `explain`, `graphs` and `pub`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from click.core import ParameterSource

from .. import _graph_file, durations
from ..errors import AppNotFoundError, GraphError, InvalidArgumentError
from ..hotmesh import SyncHotMesh
from .place import DEFAULT_APP, Place, note, placed, value_of
from .screen import compact, complain

__all__ = ["COMMANDS"]


@contextmanager
def _mesh(place: Place, create: bool = False) -> Iterator[SyncHotMesh]:
    """The app's graphs."""
    with place.client(provision=create or place.app == DEFAULT_APP) as client:
        try:
            yield SyncHotMesh(client=client)
        except AppNotFoundError as error:
            error.hint = f"{error.hint}; hotmesh deploy --create does it too"
            raise


def _of_document(place: Place, file: _graph_file.GraphFile) -> Place:
    """The app that the document names, unless --app does."""
    if click.get_current_context().get_parameter_source("app") is not ParameterSource.DEFAULT:
        return place
    app = file.document.get("app")
    named = app.get("id") if isinstance(app, dict) else None
    return dataclasses.replace(place, app=named) if isinstance(named, str) and named else place


@click.command()
@click.argument("file")
@click.option("--activate", is_flag=True, help="New jobs take it at once.")
@click.option("--subscribes", metavar="TOPIC", help="Of a graph that does not say it itself.")
@click.option("--create", is_flag=True, help="Create the app if it is not there.")
@placed
def deploy(place: Place, file: str, activate: bool, subscribes: str | None, create: bool) -> None:
    """Check FILE, YAML or JSON, compile it and keep it as a version of the app's graphs.

    The app is the one that the document names, unless --app does. All faults are shown at once.
    """
    try:
        read = _graph_file.load(file)
        place = _of_document(place, read)
        with _mesh(place, create) as mesh:
            found = mesh.deploy(read, subscribes)
            if activate:
                mesh.activate(found["version"])
                found["active"] = True
    except GraphError as error:
        _show_faults(place, error)
        raise click.exceptions.Exit(1) from error
    if place.screen.as_json:
        place.screen.document({"app": place.app, **found})
        return
    topics = ", ".join(graph.get("subscribes") or "any topic" for graph in found["graphs"])
    state = "active" if found["active"] else f"not active yet: hotmesh activate {found['version']}"
    what = "deployed" if found["changed"] else "was deployed already"
    place.screen.line(f"app {place.app}, version {found['version']} {what}: {topics}")
    note(state)


def _show_faults(place: Place, error: GraphError) -> None:
    if place.screen.as_json:
        place.screen.document({"app": place.app, "faults": error.faults})
        return
    place.screen.table(
        ("place", "path", "fault"),
        ([_place_of(fault), str(fault.get("path", "")), str(fault.get("reason", ""))]
         for fault in error.faults),
    )  # fmt: skip
    count = len(error.faults)
    complain(f"{count} fault{'s' if count != 1 else ''}; nothing was deployed", error.hint)


def _place_of(fault: dict[str, Any]) -> str:
    return ":".join(str(fault[name]) for name in ("file", "line", "column") if name in fault)


@click.command()
@click.argument("version")
@placed
def activate(place: Place, version: str) -> None:
    """Let new jobs run in VERSION; open jobs keep theirs."""
    with _mesh(place) as mesh:
        mesh.activate(version)
    place.tell(
        {"app": place.app, "version": version, "active": True},
        f"app {place.app}: new jobs run in version {version}",
    )


@click.command()
@click.argument("topic")
@click.option("--mermaid", is_flag=True, help="As a drawing for Mermaid.")
@placed
def explain(place: Place, topic: str, mermaid: bool) -> None:
    """Show the compiled plan of the graph that answers TOPIC."""
    form = "mermaid" if mermaid else "text"
    with _mesh(place) as mesh:
        told = mesh.explain(topic, form)
    place.tell({"topic": topic, "format": form, "plan": told}, told)


@click.command()
@placed
def graphs(place: Place) -> None:
    """List what was deployed, by topic, the newest first."""
    with _mesh(place) as mesh:
        found = mesh.graphs()
    if place.screen.as_json:
        place.screen.document([one._asdict() for one in found])
        return
    heads = ("topic", "version", "state", "open jobs", "publishes", "deployed")
    place.screen.table(heads, ([
        one.topic or "any other", one.version, one.state, str(one.open_jobs), one.publishes or "",
        f"{one.created_at:%Y-%m-%d %H:%M:%S}",
    ] for one in found))  # fmt: skip


@click.command()
@click.argument("topic")
@click.argument("data", default="{}")
@click.option("--id", "key", help="The job's id; by default what the trigger says, or a new one.")
@click.option("--wait", is_flag=True, help="Wait for its end and print its data.")
@click.option("--timeout", metavar="DURATION", help="How long to wait at most; 30 seconds.")
@placed
def pub(
    place: Place, topic: str, data: str, key: str | None, wait: bool, timeout: str | None
) -> None:
    """Start a job of the graph that answers TOPIC, and print its id. DATA is a JSON object."""
    told = value_of(data)
    if not isinstance(told, dict):
        raise InvalidArgumentError(f"DATA is no JSON object: {data}")
    with _mesh(place) as mesh:
        if not wait:
            job_id = mesh.pub(topic, told, job_id=key)
            place.tell({"id": job_id, "topic": topic}, job_id)
            return
        limit = 30.0 if timeout is None else durations.parse(timeout, "timeout")
        with place.screen.spinner(f"waiting for {topic}; Ctrl-C leaves it running"):
            output = mesh.pubsub(topic, told, limit, job_id=key)
    place.tell(output, compact(output["data"]))


COMMANDS: tuple[click.Command, ...] = (deploy, activate, explain, graphs, pub)
