"""What the live catalogue says about the engine, and snapshots of it that can be compared."""

from __future__ import annotations

from typing import Any

import psycopg

Connection = psycopg.Connection[Any]
Rows = list[tuple[Any, ...]]

# Each part: text rows that say the same in two databases with the same engine.
PARTS = {
    "columns": """
        select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
        from pg_class c
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
        where c.relnamespace = to_regnamespace(%(schema)s) and c.relkind in ('r', 'p', 'v', 'c')
        order by 1, 2""",
    "relations": """
        select c.relname, c.relkind, c.reloptions, obj_description(c.oid, 'pg_class'), c.relacl::text
        from pg_class c
        where c.relnamespace = to_regnamespace(%(schema)s) and c.relkind in ('r', 'p', 'v', 'S')
        order by 1""",
    "constraints": """
        select c.conrelid::regclass::text, c.conname, pg_get_constraintdef(c.oid), c.convalidated
        from pg_constraint c
        where c.connamespace = to_regnamespace(%(schema)s) order by 1, 2""",
    "indexes": """
        select i.tablename, i.indexname, i.indexdef from pg_indexes i
        where i.schemaname = %(schema)s order by 1, 2""",
    "functions": """
        select p.oid::regprocedure::text, pg_get_functiondef(p.oid), p.proacl::text,
               obj_description(p.oid, 'pg_proc')
        from pg_proc p where p.pronamespace = to_regnamespace(%(schema)s) order by 1""",
    "triggers": """
        select t.tgrelid::regclass::text, t.tgname, pg_get_triggerdef(t.oid), t.tgenabled
        from pg_trigger t join pg_class c on c.oid = t.tgrelid
        where c.relnamespace = to_regnamespace(%(schema)s) and not t.tgisinternal order by 1, 2""",
    "views": """
        select v.viewname, v.definition from pg_views v
        where v.schemaname = %(schema)s order by 1""",
}


def snapshot(connection: Connection, schema: str = "hotmesh") -> dict[str, Rows]:
    """The schema, part by part; equal snapshots are equal catalogues."""
    return {
        part: connection.execute(query, {"schema": schema}).fetchall()
        for part, query in PARTS.items()
    }


def difference(left: dict[str, Rows], right: dict[str, Rows]) -> list[str]:
    """What only one of two snapshots has, as lines that start with - or +."""
    lines = []
    for part in PARTS:
        lines += [f"- {part}: {row}" for row in left[part] if row not in right[part]]
        lines += [f"+ {part}: {row}" for row in right[part] if row not in left[part]]
    return lines


def column(connection: Connection, query: str, *params: Any) -> list[Any]:
    """The first column of the rows."""
    return [row[0] for row in connection.execute(query, params or None).fetchall()]


def error_of(connection: Connection, statement: str) -> str | None:
    """Run a statement and say what was wrong with it."""
    try:
        connection.execute(statement.encode())
    except psycopg.Error as error:
        return error.diag.message_primary
    return None
