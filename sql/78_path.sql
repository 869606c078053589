-- 78 path: where in a document: "a.b" names a key within a key, "a.0" and "a.-1" an element of an
-- array, "a\.b" a key with a dot, "a\\b" one with a backslash. Names may be empty. Null is the
-- whole document. Pure functions, shared by the entity's commands and find. Errors: 22023.

--@ state

--@ behaviour
create or replace function hotmesh._path_check(path text)
returns void
language plpgsql
immutable
parallel safe
as $$
begin
    if octet_length(path) > 10000 then
        perform hotmesh._refuse_argument(
            'path is too long',
            format('It has %s bytes and begins with %L.', octet_length(path), left(path, 40)),
            'Up to 10000 bytes.');
    elsif path ~ '(^|[^\\])(\\\\)*\\$' then
        perform hotmesh._refuse_argument(
            format('path ends within an escape: %s', left(path, 200)),
            'A backslash escapes the dot or the backslash after it, and nothing comes after it.',
            'Write a backslash at the end of a name twice.');
    end if;
end
$$;

create or replace function hotmesh._path_split(path text)
returns text[]
language plpgsql
immutable
parallel safe
as $$
begin
    perform hotmesh._path_check(path);
    return array(
        select regexp_replace(m.name[1], '\\([\\.])', '\1', 'g')
        from regexp_matches(path || '.', '((?:[^\\.]|\\.)*)\.', 'g') with ordinality m (name, n)
        order by m.n);
end
$$;

-- Plain ones as a part of what calls it.
create or replace function hotmesh._path_parse(path text)
returns text[]
language sql
immutable
parallel safe
as $$
    select case
        when path is null then '{}'
        when path = '' or octet_length(path) > 10000 or strpos(path, '\') > 0
            then hotmesh._path_split(path)
        else string_to_array(path, '.') end
$$;

-- The value at a path; null if nothing is there. A json null is there.
create or replace function hotmesh._path_get(document jsonb, path text[])
returns jsonb
language sql
immutable
parallel safe
as $$
    select document #> path
$$;
