-- 21 reference: {a1.output.data.x}, {$self.…}, {@domain.name} and the rows of a @pipe: how they are
-- read, and what is wrong with them. A scope is what a value may mention: {"activities": {id:
-- depth}, "app": {…}, "graph": {…}}; `reduce` is in it inside of @reduce.

--@ state

--@ behaviour
-- The names of a reference; null: the text is none.
create or replace function hotmesh._reference_parse(word text)
returns text[]
language sql
immutable
parallel safe
as $$
    select case when word ~ '^\{\s*[$@]?[A-Za-z_][A-Za-z0-9_-]*\s*(\.[^.{}"\n]+)*\}$'
                then regexp_split_to_array(
                    btrim(substr(word, 2, length(word) - 2), E' \t\n'), '\s*\.\s*') end
$$;

create or replace function hotmesh._reference_function(domain text, name text)
returns table (target text, fewest integer, most integer)
language sql
stable
parallel safe
as $$
    select 'hotmesh.' || t.target, p.pronargs - p.pronargdefaults,
           case when p.provariadic = 0 then p.pronargs::integer end
    from hotmesh._pipe_names() n
    cross join lateral regexp_split_to_table(n.names, ' ') w (word)
    cross join lateral hotmesh._pipe_target(
        n.domain, coalesce(nullif(split_part(w.word, '=', 2), ''), w.word)) t (target)
    cross join lateral (
        select p.pronargs, p.pronargdefaults, p.provariadic
        from pg_proc p
        where p.proname = t.target and p.pronamespace = 'hotmesh'::regnamespace
        limit 1) p
    where n.domain = _reference_function.domain
      and split_part(w.word, '=', 1) = _reference_function.name
$$;

-- What is known of an instance beside its data: its activity, type and topic, where it lies on the
-- way, when it was created and updated, the code of its answer, its error.
create or replace function hotmesh._reference_metadata_fault(word text, names text[])
returns text
language sql
immutable
parallel safe
as $$
    select format('%s finds nothing: the metadata of an activity are aid, atp, stp, dad, ac, au, '
        'code and err', word)
    where names[1] = 'metadata'
      and names[2] not in ('aid', 'atp', 'stp', 'dad', 'ac', 'au', 'code', 'err')
$$;

-- What is wrong with a reference; null: nothing.
create or replace function hotmesh._reference_fault(word text, scope jsonb)
returns text
language plpgsql
stable
parallel safe
as $$
declare
    v_names constant text[] := hotmesh._reference_parse(word);
    v_root constant text := v_names[1];
begin
    if v_names is null then
        return case when word ~ '^\{\s*[$@][A-Za-z_].*\}$'
                    then format('%s is no reference; write {name.output.data.field}', word) end;
    elsif v_root like '@%' then
        return case
            when cardinality(v_names) <> 2
            then format('%s is no function; write {@domain.name}', word)
            when not exists (
                select from hotmesh._reference_function(substr(v_root, 2), v_names[2]))
            then format('there is no function %s; near to it: %s', word,
                hotmesh._pipe_nearest(substr(v_root, 2), v_names[2])) end;
    elsif v_root in ('$item', '$key', '$index', '$input', '$output') then
        return case when not scope ? 'reduce'
                    then format('%s has a meaning only inside @reduce', word) end;
    elsif v_root like '$%' then
        return case when v_root not in ('$self', '$job', '$hook', '$app', '$graph')
                    then format('there is no %s; a reference begins with an activity, $self, '
                        '$job, $hook, $app or $graph', word)
                    when v_root in ('$app', '$graph')
                        and scope #> (substr(v_root, 2) || v_names[2:]) is null
                    then format('%s finds nothing in the document', word)
                    else hotmesh._reference_metadata_fault(
                        word, v_names[case v_root when '$self' then 3 when '$hook' then 2 end:])
                    end;
    elsif not scope -> 'activities' ? v_root then
        return format('%s mentions the activity %s, which is not in this graph', word, v_root);
    end if;
    return case when v_names[2] not in ('output', 'input', 'hook')
                    or v_names[3] not in ('data', 'metadata')
                then format('%s finds nothing: an activity has output, input and hook, and each '
                    'has data and metadata', word)
                else hotmesh._reference_metadata_fault(word, v_names[3:]) end;
end
$$;

create or replace function hotmesh._reference_faults(value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
parallel safe
as $$
begin
    if jsonb_typeof(value) = 'string' then
        return query
            select path, f.reason
            from (values (hotmesh._reference_fault(value #>> '{}', scope))) f (reason)
            where f.reason is not null;
    elsif value -> '@pipe' is not null then
        return query
            select path, '@pipe stands alone: nothing can be beside it'
            where value - '@pipe' <> '{}'
            union all
            select f.at, f.reason
            from hotmesh._reference_pipe_faults(value -> '@pipe', scope, path || '.@pipe') f;
    elsif jsonb_typeof(value) = 'array' then
        return query
            select f.at, f.reason
            from jsonb_array_elements(value) with ordinality e (item, n)
            cross join lateral hotmesh._reference_faults(
                e.item, scope, format('%s[%s]', path, e.n - 1)) f;
    elsif jsonb_typeof(value) = 'object' then
        return query
            select path, '@reduce is a row of a @pipe' where value -> '@reduce' is not null
            union all
            select f.at, f.reason
            from jsonb_each(value) e
            cross join lateral hotmesh._reference_faults(
                e.value, scope, path || '.' || e.key) f
            where e.key <> '@reduce';
    end if;
end
$$;

create or replace function hotmesh._reference_pipe_faults(rows jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
parallel safe
as $$
begin
    if jsonb_typeof(rows) <> 'array' or rows = '[]' then
        return query select path, 'a pipe is a list of rows';
        return;
    end if;
    return query
        select f.at, f.reason
        from jsonb_array_elements(rows) with ordinality r (line, n)
        cross join lateral hotmesh._reference_row_faults(
            r.line, r.n = 1, scope,
            format('%s[%s]', path, r.n - 1)) f;
end
$$;

create or replace function hotmesh._reference_row_faults(
    line jsonb, first boolean, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
parallel safe
as $$
begin
    if jsonb_typeof(line) = 'array' and line <> '[]' then
        return query
            select path || '[0]', 'a row after the first begins with a function, {@domain.name}'
            where not first and not coalesce(hotmesh._reference_parse(line ->> 0) && array[
                '$item', '$key', '$index', '$input', '$output'], false)
              and not coalesce((hotmesh._reference_parse(line ->> 0))[1] like '@%', false)
            union all
            select f.at, f.reason from hotmesh._reference_faults(line, scope, path) f;
    elsif line -> '@pipe' is not null then
        return query select f.at, f.reason from hotmesh._reference_faults(line, scope, path) f;
    elsif line -> '@reduce' is not null then
        return query
            select path, 'the row before @reduce gives what is reduced: [iterable, initial]'
            where first
            union all
            select path, '@reduce stands alone: nothing can be beside it'
            where line - '@reduce' <> '{}'
            union all
            select f.at, f.reason
            from hotmesh._reference_pipe_faults(
                line -> '@reduce', scope || '{"reduce": 0}', path || '.@reduce') f;
    else
        return query select path, 'a row is a list of values, a @pipe or a @reduce';
    end if;
end
$$;
