"""Workflows, beside the floor that writes the rows they leave behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench import _floor, _work
from bench._floor import Floor
from bench._work import Overhead, Run
from bench._world import World

Row = dict[str, Any]


@dataclass(frozen=True)
class Load:
    """So many jobs of one workflow; `batch` is how many the floor writes per commit."""

    workflow: str
    steps: int
    jobs: int
    concurrent: int
    batch: int

    @property
    def units(self) -> int:
        """What is counted per second: steps, or jobs that have none."""
        return self.jobs * max(self.steps, 1)


def side_by_side(world: World, name: str, *, pairs: int, **load: Any) -> list[Row]:
    """Many workflows of one kind, in pairs that alternate: ours, the floor."""
    plan = Load(**load)
    with world.app(name) as app:
        floor, less = Floor(world, app), _work.overhead(world, app)
        found = [_pair(world, app, floor, less, plan) for _ in range(pairs + 1)][1:]
    case = f"{plan.jobs:,} × {plan.workflow}, {plan.concurrent} at a time"
    return [{"case": case, **medians(found)}]


def medians(found: list[Row]) -> Row:
    """The median of each value; of the ratios too, so that they are those of pairs."""
    return {key: median(row[key] for row in found) for key in found[0]}


def _pair(world: World, app: str, floor: Floor, less: Overhead, plan: Load) -> Row:
    ids = world.start(app, plan.workflow, [_work.PAYLOAD] * plan.jobs)
    copies = floor.adopt(ids)
    run = _work.serve(world, app, plan.jobs, plan.concurrent, less)
    slow, commits = floor.write(_floor.step_by_step(ids, plan.steps, plan.batch))
    fast, _ = floor.write(_floor.all_at_once(copies, plan.steps, plan.batch))
    ours, theirs = floor.bytes_left(ids)
    return {
        "per_s": plan.units / run.seconds,
        "floor_per_s": plan.units / slow,
        "of_floor": slow / run.seconds,
        "least_per_s": plan.units / fast,
        "of_least": fast / run.seconds,
        **counts(run, plan.jobs, plan.steps),
        "floor_commits": commits / plan.jobs,
        "bytes_left_of_floor": ours / theirs,
    }


def counts(run: Run, jobs: int, steps: int) -> Row:
    """Counts of a run, per job; and what is interesting per step."""
    unit = jobs * max(steps, 1)
    return {
        "round_trips": run.round_trips / jobs,
        "commits": run.commits / jobs,
        "flushes": run.flushes / jobs,
        "wal_bytes": (run.wal.bytes) / jobs,
        "fpi_bytes": run.wal.full_page_images / jobs,
        "commits_per_step": run.commits / unit,
        "wal_bytes_per_step": run.wal.bytes / unit,
    }


def fan_out(world: World, name: str, *, widths: list[int], pairs: int) -> list[Row]:
    """One workflow that calls many activities at once; the floor writes them in as many commits."""
    return [
        {
            "case": f"{width:,} activities at once",
            **medians(_alone(world, name, "fan", width, pairs)),
        }
        for width in widths
    ]


def long(world: World, name: str, *, steps: int, pairs: int) -> list[Row]:
    """One workflow of many steps, and whether the last of them take longer than the first."""
    found = _alone(
        world, name, "sequence", steps, pairs, slope=lambda app, id: _slope(world, app, id)
    )
    return [{"case": f"{steps:,} steps, one after the other", **medians(found)}]


def _alone(
    world: World,
    name: str,
    workflow: str,
    steps: int,
    pairs: int,
    slope: Callable[[str, int], Row] | None = None,
) -> list[Row]:
    found = []
    with world.app(name) as app:
        floor, less = Floor(world, app), _work.overhead(world, app)
        for _ in range(pairs + 1):
            [id] = world.start(app, workflow, [steps])
            floor.adopt([id])
            run = _work.serve(world, app, 1, 1, less)
            plan: Iterable[_floor.Commit] = _floor.in_commits(id, steps, round(run.commits) - 1)
            seconds, commits = floor.write(plan)
            row = {
                "per_s": steps / run.seconds,
                "floor_per_s": steps / seconds,
                "of_floor": seconds / run.seconds,
                "seconds": run.seconds,
                **counts(run, 1, steps),
                "floor_commits": commits,
            }
            found.append({**row, **(slope(app, id) if slope else {})})
    return found[1:]


def _slope(world: World, app: str, id: int) -> Row:
    """The time of the last tenth of the journal over that of the second tenth, by the server's clock."""
    query = (
        f"select extract(epoch from max(a.created_at) - min(a.created_at))::float8"
        f" from {app}.jobs_attributes a, (select count(*) / 10 as tenth from {app}.jobs_attributes"
        f" where job_id = %(id)s and sequence is not null) n"
        f" where a.job_id = %(id)s and a.sequence between n.tenth * %(part)s and n.tenth * (%(part)s + 1)"
    )
    with world.connect() as conn:
        early, late = (
            conn.execute(query.encode(), {"id": id, "part": part}).fetchone() or (0.0,)
            for part in (1, 9)
        )
    return {
        "early_ms": early[0] * 1e3,
        "late_ms": late[0] * 1e3,
        "late_of_early": late[0] / early[0],
    }
