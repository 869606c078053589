-- 10 pipe: the functions of @pipe (rooms 11 to 19; cron in 71), pure, on jsonb, as JavaScript has
-- them. SQL null is undefined. What JSON can't say, NaN, ±Infinity, -0, is {"$number": "NaN"} while
-- a pipe runs; stored, or in an array or object, it is null or 0. A Date is its ISO text. Keys are
-- in jsonb's order (numbers, then short before long). Two arrays or objects are never equal. Texts
-- count in characters. Local time is UTC. What JavaScript can't take, and unknown names: 22023.

--@ state

--@ behaviour
create or replace function hotmesh._pipe_refuse(message text, detail text)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    perform hotmesh._refuse_argument(
        message, coalesce(detail, 'It was undefined.'),
        'JavaScript raises an error here too. Give another value, for instance by '
        'conditional.nullish before it.');
    return null;
end
$$;

-- What remains of a value when its pipe has ended, or when it is put into an array or object.
create or replace function hotmesh._pipe_store(value jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return case when jsonb_typeof(value) = 'object' and value ? '$number'
                then case value ->> '$number'
                     when '-0' then '0'::jsonb
                     when 'NaN' then 'null'
                     when 'Infinity' then 'null'
                     when '-Infinity' then 'null'
                     else value end
                else value end;
end
$$;

create or replace function hotmesh._pipe_item(value jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return coalesce(hotmesh._pipe_store(value), 'null');
end
$$;

-- The catalogue; a=b is a second name of b.
create or replace function hotmesh._pipe_names()
returns table (domain text, names text)
language sql
immutable
parallel safe
as $$
    values
        ('array', 'get length concat indexOf join lastIndexOf pop push reverse shift slice sort '
            'splice unshift'),
        ('bitwise', 'and or xor leftShift rightShift unsignedRightShift'),
        ('conditional', 'ternary equality strict_equality inequality strict_inequality '
            'greater_than less_than greater_than_or_equal less_than_or_equal nullish '
            'eq=equality ne=inequality neq=inequality gt=greater_than lt=less_than '
            'gte=greater_than_or_equal lte=less_than_or_equal'),
        ('cron', 'nextDelay'),
        ('date', 'fromISOString now yyyymmdd parse getDate=getUTCDate getDay=getUTCDay '
            'getFullYear=getUTCFullYear getHours=getUTCHours getMilliseconds=getUTCMilliseconds '
            'getMinutes=getUTCMinutes getMonth=getUTCMonth getSeconds=getUTCSeconds getTime '
            'getTimezoneOffset getUTCDate getUTCDay getUTCFullYear getUTCHours '
            'getUTCMilliseconds getUTCMinutes getUTCMonth getUTCSeconds setDate=setUTCDate '
            'setFullYear=setUTCFullYear setHours=setUTCHours setMilliseconds=setUTCMilliseconds '
            'setMinutes=setUTCMinutes setMonth=setUTCMonth setSeconds=setUTCSeconds setTime '
            'setUTCDate setUTCFullYear setUTCHours setUTCMilliseconds setUTCMinutes setUTCMonth '
            'setUTCSeconds toDateString toISOString toISOXString toJSON toLocaleDateString '
            'toLocaleString toLocaleTimeString toString UTC valueOf=getTime'),
        ('json', 'stringify parse'),
        ('logical', 'and or'),
        ('math', 'add subtract multiply divide abs acos acosh asin asinh atan atan2 atanh cbrt '
            'ceil clz32 cos cosh exp expm1 floor fround hypot imul log log10 log1p log2 max min '
            'pow random round sign sin sinh sqrt tan tanh trunc'),
        ('number', 'isFinite isEven isOdd isInteger isNaN parseFloat parseInt toFixed '
            'toExponential toPrecision gte lte gt lt max min pow round'),
        ('object', 'get set create keys values entries fromEntries assign getOwnPropertyNames '
            'getOwnPropertySymbols getOwnPropertyDescriptor defineProperty defineProperties '
            'freeze isFrozen seal isSealed preventExtensions isExtensible hasOwnProperty '
            'isPrototypeOf propertyIsEnumerable'),
        ('string', 'split charAt concat includes indexOf lastIndexOf slice toLowerCase '
            'toUpperCase trim trimStart trimEnd padStart padEnd replace search substring '
            'startsWith endsWith repeat'),
        ('symbol', 'null undefined whitespace object array posInfinity negInfinity NaN date'),
        ('unary', 'not positive negative bitwise_not')
$$;

-- toISOString of date is _date_to_iso_string.
create or replace function hotmesh._pipe_target(domain text, name text)
returns text
language sql
immutable
parallel safe
as $$
    select format('_%s_%s', domain, lower(regexp_replace(regexp_replace(
        replace(name, 'NaN', 'Nan'), '([A-Z]+)([A-Z][a-z])', '\1_\2', 'g'),
        '([a-z0-9])([A-Z])', '\1_\2', 'g')))
$$;

-- Each function with what it is in SQL; `most` null: it takes any number of values.
create or replace function hotmesh._pipe_functions()
returns table (
    domain text, name text, target text, fewest integer, most integer, volatility text,
    parallel_safe boolean)
language sql
stable
parallel safe
as $$
    select n.domain, split_part(w.word, '=', 1), 'hotmesh.' || t.target,
           p.pronargs - p.pronargdefaults,
           case when p.provariadic = 0 then p.pronargs::integer end,
           case p.provolatile when 'i' then 'immutable' when 's' then 'stable'
                else 'volatile' end,
           p.proparallel = 's'
    from hotmesh._pipe_names() n
    cross join lateral regexp_split_to_table(n.names, ' ') w (word)
    cross join lateral hotmesh._pipe_target(
        n.domain, coalesce(nullif(split_part(w.word, '=', 2), ''), w.word)) t (target)
    left join pg_proc p on p.proname = t.target and p.pronamespace = 'hotmesh'::regnamespace
$$;

-- How many letters make one word of the other.
create or replace function hotmesh._pipe_distance(a text, b text)
returns integer
language plpgsql
immutable
parallel safe
as $$
declare
    v_row integer[] := array(select generate_series(0, length(b)));
    v_next integer[];
begin
    for i in 1..length(a) loop
        v_next := array[i];
        for j in 1..length(b) loop
            v_next := v_next || least(
                v_row[j + 1] + 1, v_next[j] + 1,
                v_row[j] + (substr(a, i, 1) <> substr(b, j, 1))::integer);
        end loop;
        v_row := v_next;
    end loop;
    return v_row[length(b) + 1];
end
$$;

create or replace function hotmesh._pipe_nearest(domain text, name text)
returns text
language sql
stable
parallel safe
as $$
    select string_agg(n.full_name, ', ' order by n.d)
    from (
        select f.domain || '.' || f.name as full_name,
               hotmesh._pipe_distance(lower(replace(f.name, '_', '')), w.name)
                   + 2 * hotmesh._pipe_distance(f.domain, w.domain) as d
        from hotmesh._pipe_functions() f
        cross join (values (
            left(lower(_pipe_nearest.domain), 20),
            left(lower(replace(_pipe_nearest.name, '_', '')), 30))) w (domain, name)
        order by d, 1
        limit 3) n
$$;

-- The SQL function of a name, or a refusal.
create or replace function hotmesh._pipe_find(domain text, name text)
returns text
language plpgsql
stable
parallel safe
as $$
declare
    v_target text;
begin
    select f.target into v_target
    from hotmesh._pipe_functions() f
    where f.domain = _pipe_find.domain and f.name = _pipe_find.name;
    if v_target is null then
        perform hotmesh._refuse_argument(
            format('unknown function: @%s.%s', left(domain, 40), left(name, 40)),
            case when exists (
                select from hotmesh._pipe_names() n where n.domain = _pipe_find.domain)
                 then format('The domain %s has no %s.', domain, left(name, 40))
                 else 'The domains are ' || (
                    select string_agg(n.domain, ', ' order by n.domain)
                    from hotmesh._pipe_names() n) || '.' end,
            format('Near to it: %s.', hotmesh._pipe_nearest(
                coalesce(domain, ''), coalesce(name, ''))));
    end if;
    return v_target;
end
$$;

-- Values beyond those that the function takes are dropped, missing ones are undefined.
create or replace function hotmesh._pipe_call(domain text, name text, args jsonb[])
returns jsonb
language plpgsql
volatile
as $$
declare
    v_target constant text := hotmesh._pipe_find(domain, name);
    v_function record;
    v_list text;
    v_value jsonb;
begin
    select f.fewest, f.most into v_function
    from hotmesh._pipe_functions() f
    where f.domain = _pipe_call.domain and f.name = _pipe_call.name;
    v_list := case
        when v_function.most is null then concat_ws(', ', (
            select string_agg(format('$1[%s]', n), ', ' order by n)
            from generate_series(1, v_function.fewest) n),
            format('variadic $1[%s:]', v_function.fewest + 1))
        else (
            select string_agg(format('$1[%s]', n), ', ' order by n)
            from generate_series(
                1, least(v_function.most, greatest(v_function.fewest, cardinality(args)))) n) end;
    execute format('select %s(%s)', v_target, v_list) into v_value using args;
    return v_value;
end
$$;
