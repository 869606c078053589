-- 22 expression: values of a document as SQL of type jsonb, over the variables s (instances: {"a":
-- {",0,0": {…}}}), d (the dimension), self, job. SQL null is undefined. Only calls of the library,
-- operators and quoted literals are written. Where texts are silent: a negative index counts from
-- the end; $key of an array is a text; what is no array or object is not iterated; a function at
-- the head of a nested pipe that needs values takes the row before; expected and actual are
-- compared as they are, NaN included. Errors: 22023.

--@ state

--@ behaviour
create or replace function hotmesh._expression_read(s jsonb, name text, depth integer, d text)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._mapping_get(s, name, depth, d, '{}')
$$;

-- Activity ids that a value mentions.
create or replace function hotmesh._expression_refs(value jsonb)
returns text[]
language sql
immutable
parallel safe
as $$
    select coalesce(array_agg(distinct r.names[1] order by r.names[1]), '{}')
    from jsonb_path_query(value, 'strict $.** ? (@ starts with "{")') w (word)
    cross join lateral (values (hotmesh._reference_parse(w.word #>> '{}'))) r (names)
    where r.names[1] ~ '^[A-Za-z_]'
$$;

create or replace function hotmesh._expression_literal(value jsonb)
returns text
language sql
immutable
parallel safe
as $$
    select quote_literal(value::text) || '::jsonb'
$$;

-- What stands in the body of a @reduce is nothing that the planner may evaluate beforehand: it
-- might fail, though nothing is iterated.
create or replace function hotmesh._expression_fixed(text text, scope jsonb)
returns text
language sql
immutable
parallel safe
as $$
    select case when scope ? 'reduce'
                then format('case when r%s.n >= 0 then %s end', scope ->> 'reduce', text)
                else text end
$$;

create or replace function hotmesh._expression_step(base text, names text[])
returns text
language sql
immutable
parallel safe
as $$
    select case when names = '{}' then base
                else format('(%s #> %s)', base, quote_literal(names::text)) end
$$;

create or replace function hotmesh._expression_call(name text, args text[])
returns text
language sql
stable
parallel safe
as $$
    select format('%s(%s)', f.target, concat_ws(', ', (
        select string_agg(coalesce(args[n], 'null::jsonb'), ', ' order by n)
        from generate_series(1, case when f.most is null then f.fewest
            else least(greatest(cardinality(args), f.fewest), f.most) end) n),
        case when f.most is null and cardinality(args) > f.fewest
             then format('variadic array[%s]::jsonb[]', array_to_string(
                args[f.fewest + 1:], ', ')) end))
    from hotmesh._reference_function(
        substr(split_part(name, '.', 1), 2), split_part(name, '.', 2)) f
$$;

-- A reference to an activity: the guess at its dimension is made in place.
create or replace function hotmesh._expression_find(
    name text, depth integer, names text[], prefix text)
returns text
language sql
stable
parallel safe
as $$
    select format(
        case when depth = 0
             then 'coalesce(%8$ss #> %5$L, hotmesh._mapping_get(%8$ss, %1$L, 0, %8$sd, %2$L))'
             else 'coalesce(case when substr(%8$sd, %3$s, 1) in ('''', '','') '
                'then %8$ss #> array[%1$L, rpad(%8$sd, %4$s, '',0'')%6$s] end, '
                'hotmesh._mapping_get(%8$ss, %1$L, %7$s, %8$sd, %2$L))' end,
        name, names, 2 * depth + 3, 2 * depth + 2, array[name, ',0'] || names,
        (select string_agg(', ' || quote_literal(n.name), '' order by n.n)
         from unnest(names) with ordinality n (name, n)), depth, prefix)
$$;

-- The names of a reference. The input of a `twin`, a trigger, is its output; in its own expressions
-- (`own`) it is $self.
create or replace function hotmesh._expression_names(word text, scope jsonb)
returns text[]
language sql
immutable
parallel safe
as $$
    select case
        when r.names[2] = 'input' and r.names[1] = any (
            array[scope ->> 'twin', case when scope ? 'own' then '$self' end])
        then array[r.names[1], 'output'] || r.names[3:]
        else r.names end
    from (values (hotmesh._reference_parse(word))) r (names)
$$;

create or replace function hotmesh._expression_word(word text, scope jsonb)
returns text
language plpgsql
stable
parallel safe
as $$
declare
    v_names constant text[] := hotmesh._expression_names(word, scope);
    v_root constant text := v_names[1];
    v_reduce constant text := scope ->> 'reduce';
    v_prefix constant text := coalesce('e' || v_reduce || '.', '');
begin
    return case
        when v_names is null
        then hotmesh._expression_fixed(hotmesh._expression_literal(to_jsonb(word)), scope)
        when v_root like '@%'
        then hotmesh._expression_fixed(
            hotmesh._expression_call(array_to_string(v_names, '.'), '{}'), scope)
        when v_root in ('$app', '$graph')
        then coalesce(hotmesh._expression_literal(
            scope #> (substr(v_root, 2) || v_names[2:])), 'null::jsonb')
        when v_root in ('$self', '$job')
        then hotmesh._expression_step(v_prefix || substr(v_root, 2), v_names[2:])
        when v_root = '$hook' then hotmesh._expression_step(
            v_prefix || 'self', array['hook'] || v_names[2:])
        when v_root like '$%'
        then hotmesh._expression_step(case v_root
            when '$item' then format('(e%s.items -> r%s.n)', v_reduce, v_reduce)
            when '$key' then format('(e%s.keys -> r%s.n)', v_reduce, v_reduce)
            when '$index' then format('to_jsonb(r%s.n)', v_reduce)
            when '$input' then format('e%s.input', v_reduce)
            when '$output' then format('r%s.output', v_reduce) end, v_names[2:])
        else hotmesh._expression_find(
            v_root, (scope -> 'activities' ->> v_root)::integer, v_names[2:], v_prefix) end;
end
$$;

-- An object. Fields that may be undefined are set on it one by one, six at a time, as each makes
-- a copy.
create or replace function hotmesh._expression_fields(value jsonb, scope jsonb)
returns text
language sql
stable
parallel safe
as $$
    with fields as materialized (
        select e.key, hotmesh._expression_stored(e.value, scope) as text,
               row_number() over (partition by v.unsure order by e.key) - 1 as n, v.unsure
        from jsonb_each(value) e
        cross join lateral (values (e.value -> '@pipe' is not null
            or hotmesh._reference_parse(case jsonb_typeof(e.value)
                when 'string' then e.value #>> '{}' end) is not null)) v (unsure)
    ), parts as (
        select format('jsonb_build_object(%s)', string_agg(
            format('%L, %s', f.key, f.text), ', ' order by f.n)) as text
        from fields f where not f.unsure group by f.n / 40
        union all
        select repeat('jsonb_set_lax(', count(*)::integer) || quote_literal('{}') || string_agg(
            format(', %L, %s, true, %L)', array[f.key], f.text, 'return_target'), '' order by f.n)
        from fields f where f.unsure group by f.n / 6
    )
    select case when exists (select from fields f where f.key ~ '\[([0-9]{1,4}|-|_)\]$')
        then (select format('hotmesh._mapping_gather(%L, array[%s]::jsonb[])',
                  array_agg(f.key order by f.n, f.key),
                  string_agg(f.text, ', ' order by f.n, f.key))
              from fields f)
        else (select '(' || string_agg(p.text, ' || ') || ')' from parts p) end
$$;

-- A value while a pipe runs: NaN is NaN.
create or replace function hotmesh._expression_raw(value jsonb, scope jsonb)
returns text
language plpgsql
stable
parallel safe
as $$
begin
    return case
        when value is null then 'null::jsonb'
        when jsonb_typeof(value) = 'string' then hotmesh._expression_word(value #>> '{}', scope)
        when value::text !~ '"\{|"@pipe"|[]]": '
        then hotmesh._expression_fixed(hotmesh._expression_literal(value), scope)
        when value -> '@pipe' is not null
        then hotmesh._expression_pipe(value -> '@pipe', scope, null)
        when jsonb_typeof(value) = 'array'
        then format('to_jsonb(array[%s]::jsonb[])', (
            select string_agg(hotmesh._expression_stored(e.item, scope), ', ' order by e.n)
            from jsonb_array_elements(value) with ordinality e (item, n)))
        else hotmesh._expression_fields(value, scope) end;
end
$$;

-- A value at its end.
create or replace function hotmesh._expression_stored(value jsonb, scope jsonb)
returns text
language plpgsql
stable
parallel safe
as $$
begin
    return format(
        case when value -> '@pipe' is not null
                 or jsonb_typeof(value) = 'string'
                 and (hotmesh._reference_parse(value #>> '{}'))[1] ~ '^(@|\$(item|output|input))'
             then 'hotmesh._pipe_store(%s)' else '%s' end,
        hotmesh._expression_raw(value, scope));
end
$$;

-- Does the row begin with a function that needs values?
create or replace function hotmesh._expression_needs(line jsonb)
returns boolean
language plpgsql
stable
parallel safe
as $$
declare
    v_names constant text[] := hotmesh._reference_parse(line ->> 0);
begin
    return v_names[1] like '@%' and (
        select f.fewest > 0 or f.most is null
        from hotmesh._reference_function(substr(v_names[1], 2), v_names[2]) f);
end
$$;

-- The cells of a row; values null: its head is not called with values.
create or replace function hotmesh._expression_row(line jsonb, vals text[], scope jsonb)
returns text[]
language plpgsql
stable
parallel safe
as $$
declare
    v_names constant text[] := hotmesh._reference_parse(line ->> 0);
begin
    return array(
        select case when e.n = 1 and vals is not null and v_names[1] like '@%'
                    then hotmesh._expression_fixed(
                        hotmesh._expression_call(array_to_string(v_names, '.'), vals), scope)
                    else hotmesh._expression_raw(e.cell, scope) end
        from jsonb_array_elements(line) with ordinality e (cell, n)
        order by e.n);
end
$$;

-- The value of a pipe; prior: values that a function at its head is called with.
create or replace function hotmesh._expression_pipe(rows jsonb, scope jsonb, prior text[])
returns text
language plpgsql
stable
parallel safe
as $$
declare
    v_line jsonb;
    v_cells text[];
    v_queue text[] := '{}';
begin
    for v_line in select e.line from jsonb_array_elements(rows) with ordinality e (line, n)
                  order by e.n loop
        if v_line -> '@pipe' is not null then
            v_queue := v_queue || hotmesh._expression_pipe(
                v_line -> '@pipe', scope, coalesce(v_cells, prior));
            continue;
        elsif jsonb_typeof(v_line) = 'object' then
            v_cells := array[hotmesh._expression_reduce(
                v_line -> '@reduce', coalesce(nullif(v_queue, '{}'), v_cells), scope)];
        else
            v_cells := hotmesh._expression_row(v_line, coalesce(nullif(v_queue, '{}'), v_cells,
                case when prior is not null and hotmesh._expression_needs(v_line)
                     then prior end), scope);
        end if;
        v_queue := '{}';
        if length(v_cells[1]) > 1e6 then
            perform hotmesh._refuse_argument('a pipe is too large',
                format('Compiled it would take %s bytes.', length(v_cells[1])),
                'Split it among several activities.');
        end if;
    end loop;
    return coalesce(v_queue[cardinality(v_queue)], v_cells[1]);
end
$$;

-- What the body reads comes from a materialized row, for the same reason.
create or replace function hotmesh._expression_reduce(rows jsonb, vals text[], scope jsonb)
returns text
language plpgsql
stable
parallel safe
as $$
declare
    v_depth constant integer := coalesce((scope ->> 'reduce')::integer, 0) + 1;
begin
    return format(
        '(with recursive e%1$s (input, items, keys, s, d, self, job) as materialized ('
        'select v.input, hotmesh._mapping_items(v.input), hotmesh._mapping_keys(v.input), '
        '%5$ss, %5$sd, %5$sself, %5$sjob from (select %2$s) v (input)), r%1$s (n, output) as ('
        'select 0, coalesce(%3$s, ''null'') union all select r%1$s.n + 1, %4$s '
        'from r%1$s cross join e%1$s where r%1$s.n < jsonb_array_length(e%1$s.items)) '
        'select r%1$s.output from r%1$s cross join e%1$s '
        'where r%1$s.n = jsonb_array_length(e%1$s.items))',
        v_depth, vals[1], coalesce(vals[2], 'null::jsonb'),
        hotmesh._expression_pipe(
            rows, scope || jsonb_build_object('reduce', v_depth),
            array[format('r%s.output', v_depth)]),
        case when v_depth > 1 then format('e%s.', v_depth - 1) else '' end);
end
$$;

create or replace function hotmesh._expression_check(value jsonb, scope jsonb, path text)
returns void
language plpgsql
stable
as $$
declare
    v_fault record;
begin
    select f.at, f.reason into v_fault
    from hotmesh._reference_faults(value, scope, path) f
    limit 1;
    if found then
        perform hotmesh._refuse_argument(
            format('%s: %s', v_fault.at, v_fault.reason),
            format('The whole value is %s.', left(value::text, 300)),
            'Correct the document and deploy it again.');
    end if;
end
$$;

-- The SQL of a value of a document; path is its place there.
create or replace function hotmesh._expression_sql(value jsonb, scope jsonb, path text)
returns text
language plpgsql
stable
as $$
begin
    perform hotmesh._expression_check(value, scope, path);
    return hotmesh._expression_stored(value, scope);
end
$$;

-- actual === expected. What is simple is compared at once.
create or replace function hotmesh._expression_same(pair jsonb, scope jsonb, path text)
returns text
language plpgsql
stable
as $$
declare
    v_expected constant jsonb := pair -> 'expected';
    v_actual text;
begin
    perform hotmesh._expression_check(pair, scope, path);
    v_actual := hotmesh._expression_raw(pair -> 'actual', scope);
    return case
        when jsonb_typeof(v_expected) in ('boolean', 'null')
             or v_expected::text ~ '^(-?[1-9][0-9]{0,14}|"[^{].*)$'
        then format('coalesce(%s = %s, false)', v_actual, hotmesh._expression_literal(v_expected))
        else format('hotmesh._value_same(%s, %s)', v_actual,
            hotmesh._expression_raw(v_expected, scope)) end;
end
$$;

-- The SQL, a boolean, of the match of a condition.
create or replace function hotmesh._expression_condition(
    condition jsonb, scope jsonb, path text)
returns text
language sql
stable
as $$
    select coalesce('(' || string_agg(
        hotmesh._expression_same(e.pair, scope, format('%s.match[%s]', path, e.n - 1)),
        case when condition ->> 'gate' = 'or' then ' or ' else ' and ' end order by e.n) || ')',
        'true')
    from jsonb_array_elements(condition -> 'match') with ordinality e (pair, n)
$$;

-- value === true, for emit and persist
create or replace function hotmesh._expression_true(value jsonb, scope jsonb, path text)
returns text
language sql
stable
as $$
    select hotmesh._expression_same(
        jsonb_build_object('expected', true, 'actual', coalesce(value, 'false')), scope, path)
$$;
