-- 21 field: which fields a document of graphs has, of which kinds they are, and what is wrong with
-- those that are there: unknown ones, missing ones, values that can't be meant. What is computed
-- while a job runs is read by 21_reference. A scope also has "types" (activity ids), "awaited" and
-- "signalled" (topics).

--@ state

--@ behaviour
-- name:kind; `!` has to be there. `free` is not read.
create or replace function hotmesh._field_catalogue()
returns table (place text, fields text)
language sql
immutable
as $$
    values
        ('document', 'app:free!'),
        ('app', 'id:id! version:version! settings:free graphs:graphs! title:free description:free '
            'metadata:free telemetry:free'),
        ('graph', 'subscribes:subscribes! publishes:topic expire:expire persistent:flag input:free '
            'output:free activities:activities! transitions:transitions hooks:hooks title:free '
            'description:free metadata:free settings:free telemetry:free'),
        ('activity', 'type:free topic:free title:free description:free metadata:free settings:free '
            'statusThreshold:number input:section output:section job:section hook:section '
            'emit:flag persist:flag sleep:duration cycle:flag expire:expire retry:retry '
            'telemetry:value entity:value escalation:value'),
        ('trigger', 'stats:stats'),
        ('worker', 'topic:topic! task_queue:value'),
        ('await', 'topic:awaited await:flag workflow:topic task_queue:value id:value'),
        ('hook', ''),
        ('cycle', 'ancestor:text!'),
        ('signal', 'topic:signalled! subtype:subtype status:value code:number signal:section '
            'key_name:value key_value:value resolver:section scrub:flag'),
        ('interrupt', 'target:value topic:awaited reason:value throw:flag code:number descend:flag '
            'stack:value'),
        ('sql', 'function:text!'),
        ('stats', 'id:value key:value parent:value adjacent:value granularity:granularity '
            'measures:measures'),
        ('measure', 'measure:measure! target:value!'),
        ('edge', 'to:target! conditions:conditions'),
        ('rule', 'to:waiting! conditions:conditions!'),
        ('conditions', 'gate:gate code:code match:match'),
        ('match', 'expected:value! actual:value!'),
        ('policy', 'maximum_attempts:attempts initial_interval:duration '
            'backoff_coefficient:number maximum_interval:duration non_retryable_error_types:free')
$$;

create or replace function hotmesh._field_known(places text[])
returns table (name text, kind text, needed boolean)
language sql
immutable
as $$
    select split_part(w.word, ':', 1), rtrim(split_part(w.word, ':', 2), '!'), w.word like '%!'
    from hotmesh._field_catalogue() f
    cross join lateral regexp_split_to_table(f.fields, ' ') w (word)
    where f.place = any (places) and w.word <> ''
$$;

-- A value as it is shown.
create or replace function hotmesh._field_shown(value jsonb)
returns text
language sql
immutable
as $$
    select case when length(value::text) > 60 then left(value::text, 60) || '…'
                else value::text end
$$;

-- Is it found out only while a job runs?
create or replace function hotmesh._field_is_dynamic(value jsonb)
returns boolean
language sql
immutable
as $$
    select value -> '@pipe' is not null
        or jsonb_typeof(value) = 'string'
           and coalesce(value #>> '{}' ~ '^\{.*\}$', false)
$$;

create or replace function hotmesh._field_is_duration(value jsonb)
returns boolean
language plpgsql
stable
as $$
begin
    perform hotmesh._duration(value, 'it');
    return true;
exception when invalid_parameter_value or datetime_field_overflow then
    return false;
end
$$;

-- A code or a pattern of codes, in which * is a digit.
create or replace function hotmesh._field_is_code(value jsonb)
returns boolean
language plpgsql
immutable
as $$
begin
    return value::text ~ '^([0-9]{1,6}|"[0-9*|().[\]-]{1,40}")$'
        and coalesce('200' ~ replace(value #>> '{}', '*', '[0-9]'), true) is not null;
exception when invalid_regular_expression then
    return false;
end
$$;

create or replace function hotmesh._field_choices(kind text)
returns text[]
language sql
immutable
as $$
    select (jsonb_build_object(
        'subtype', '{one, all}', 'gate', '{and, or}',
        'granularity', '{5m, 10m, 15m, 30m, 1h, infinity}',
        'measure', '{count, sum, avg, mdn, max, min, index}') ->> kind)::text[]
$$;

-- What a value that stands as it is must be; null: it is.
create or replace function hotmesh._field_rule(kind text, value jsonb)
returns text
language plpgsql
stable
as $$
declare
    v_text constant text := case when jsonb_typeof(value) = 'string' then value #>> '{}' end;
begin
    return case
        when kind in ('text', 'topic', 'awaited', 'signalled', 'target', 'waiting', 'subscribes')
        then case when coalesce(v_text !~ '^([^[:cntrl:][:space:]]|[^[:cntrl:]]{0,250}\S)?$'
                or v_text ~ '^\s' or v_text = '' and kind <> 'subscribes', true)
                  then 'a text on one line, of at most 250 characters, not padded' end
        when kind = 'flag' and jsonb_typeof(value) <> 'boolean' then 'true, false or a @pipe'
        when kind = 'number' and jsonb_typeof(value) <> 'number' then 'a number or a @pipe'
        when kind = 'duration' and not hotmesh._field_is_duration(value)
        then 'seconds, a duration such as "30 days" or "1.5h", or a @pipe'
        when kind = 'expire' and value <> '-1' and not hotmesh._field_is_duration(value)
        then 'seconds, a duration such as "30 days", a @pipe, or -1 for ever'
        when kind = 'attempts' and value::text !~ '^[1-9][0-9]{0,5}$'
        then 'a whole number from 1 to 999999: it counts executions'
        when kind = 'id' and coalesce(v_text !~ '^[A-Za-z][A-Za-z0-9_-]{0,62}$', true)
        then 'the name of an app: letters, digits, - and _'
        when kind = 'version' and jsonb_typeof(value) = 'number'
        then 'a text: put it in quotes, as 1.10 is read as 1.1'
        when kind = 'version' and coalesce(v_text !~ '^[0-9]{1,18}([.][0-9]{1,18})?$', true)
        then 'a number in quotes, such as "1" or "2.5"'
        when v_text <> all (hotmesh._field_choices(kind))
            or v_text is null and hotmesh._field_choices(kind) is not null
        then 'one of ' || array_to_string(hotmesh._field_choices(kind), ', ')
        when kind = 'code' and not hotmesh._field_is_code(value)
        then 'a code such as 500, a pattern such as "5**", or a list of them' end;
end
$$;

-- A topic as it is heard: one that begins with a dot is the app's own.
create or replace function hotmesh._field_topic(topic text, app jsonb)
returns text
language sql
immutable
as $$
    select case when topic like '.%' then coalesce(app ->> 'id', '') else '' end || topic
$$;

-- What is wrong with a name that means something else in the document.
create or replace function hotmesh._field_name(kind text, value jsonb, scope jsonb)
returns text
language plpgsql
stable
as $$
declare
    v_name constant text := value #>> '{}';
    v_type constant text := scope #>> array['types', v_name];
    v_known constant text[] := array(select jsonb_array_elements_text(scope -> kind));
begin
    if kind in ('target', 'waiting') and v_type is null then
        return format('there is no activity %s in this graph; near to it: %s', left(v_name, 60),
            hotmesh._flow_nearest(v_name, array(select jsonb_object_keys(scope -> 'types'))));
    elsif kind = 'waiting' and v_type <> 'hook' then
        return format('%s is of type %s; signals are for activities of type hook', v_name, v_type);
    elsif kind in ('awaited', 'signalled') and '' <> all (v_known)
        and hotmesh._field_topic(v_name, scope -> 'app') <> all (v_known)
    then
        return format(
            case kind when 'awaited'
                 then 'no graph of the document subscribes to %s; near to it: %s; '
                      'workflow and task_queue await a workflow in code'
                 else 'no hooks of the document wait for %s; near to it: %s' end,
            left(v_name, 60), hotmesh._flow_nearest(v_name, v_known));
    end if;
    return null;
end
$$;

-- A value of one of the kinds without parts.
create or replace function hotmesh._field_plain(kind text, value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
declare
    v_rule text;
begin
    if kind in ('topic', 'awaited', 'signalled', 'flag', 'number', 'duration', 'expire', 'value')
        and (kind = 'value' or hotmesh._field_is_dynamic(value))
    then
        return query select f.at, f.reason from hotmesh._reference_faults(value, scope, path) f;
        return;
    end if;
    v_rule := hotmesh._field_rule(kind, value);
    return query
        select path, f.reason
        from (values (case when v_rule is null then hotmesh._field_name(kind, value, scope)
            else format('it is %s, but has to be %s', hotmesh._field_shown(value), v_rule)
            end)) f (reason)
        where f.reason is not null;
end
$$;

-- {"schema": …, "maps": {…}}; what stands under a code is documentation.
create or replace function hotmesh._field_section(value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language sql
stable
as $$
    select path, format('it is %s, but has to be an object with schema and maps',
        hotmesh._field_shown(value))
    where jsonb_typeof(value) <> 'object'
    union all
    select path || '.' || left(e.key, 60), case e.key
        when 'maps' then format('it is %s, but has to be an object of fields',
            hotmesh._field_shown(e.value))
        else 'unknown field; there are schema and maps' end
    from jsonb_each(hotmesh._flow_part(jsonb_build_object('v', value), 'v')) e
    where e.key !~ '^(schema|maps|title|description|[0-9]{3})$'
       or e.key = 'maps' and jsonb_typeof(e.value) not in ('object', 'null')
          and not hotmesh._field_is_dynamic(e.value)
    union all
    select f.at, f.reason
    from hotmesh._reference_faults(value -> 'maps', scope, path || '.maps') f
$$;

-- {"500": [3]}: at most three retries; or a policy.
create or replace function hotmesh._field_retry(value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
begin
    if jsonb_typeof(value) <> 'object' or value = '{}' or not exists (
        select from jsonb_object_keys(value) k (code) where k.code !~ '^[0-9*|().^$[\]-]+$')
    then
        return query
            select path, format('it is %s, but has to be {"500": [3]} or a policy such as '
                '{"maximum_attempts": 3}', hotmesh._field_shown(value))
            where jsonb_typeof(value) <> 'object' or exists (
                select from jsonb_each(value) e
                where jsonb_typeof(e.value) <> 'array'
                   or coalesce((e.value -> 0)::text !~ '^[0-9]{1,6}$', true));
        return;
    end if;
    return query
        select f.at, f.reason from hotmesh._field_object('{policy}', value, scope, path) f;
end
$$;

create or replace function hotmesh._field_items(place text, value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
begin
    if jsonb_typeof(value) <> 'array' or value = '[]' then
        return query select path, format('it is %s, but has to be a list of objects',
            hotmesh._field_shown(value));
        return;
    end if;
    return query
        select f.at, f.reason
        from jsonb_array_elements(value) with ordinality e (item, n)
        cross join lateral hotmesh._field_object(
            array[place], e.item, scope, format('%s[%s]', path, e.n - 1)) f;
end
$$;

-- Lists by the name of an activity (transitions) or of a topic (hooks).
create or replace function hotmesh._field_lists(kind text, value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
declare
    v_name constant text := case kind when 'hooks' then 'topic' else 'target' end;
    v_item constant text := case kind when 'hooks' then 'rule' else 'edge' end;
begin
    if jsonb_typeof(value) <> 'object' then
        return query select path, format('it is %s, but has to be an object of lists',
            hotmesh._field_shown(value));
        return;
    end if;
    return query
        select f.at, f.reason
        from jsonb_each(value) e
        cross join lateral (values (path || '.' || left(e.key, 60))) p (path)
        cross join lateral (
            select n.at, n.reason
            from hotmesh._field_plain(v_name, to_jsonb(e.key), scope, p.path) n
            union all
            select i.at, i.reason
            from hotmesh._field_items(v_item, e.value, scope, p.path) i) f;
end
$$;

-- A value of any kind.
create or replace function hotmesh._field_value(kind text, value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
begin
    if kind = 'free' or value is null or value = 'null' and kind <> 'value' then
        return;
    end if;
    return query select f.at, f.reason
        from hotmesh._field_plain(kind, value, scope, path) f
        where kind not in ('section', 'retry', 'stats', 'conditions', 'measures', 'match',
            'transitions', 'hooks', 'activities', 'graphs') and not (
                kind = 'code' and jsonb_typeof(value) = 'array' and value <> '[]')
        union all
        select f.at, f.reason
        from jsonb_path_query(value, 'strict $[*]', silent => true) c (code)
        cross join lateral hotmesh._field_plain(kind, c.code, scope, path) f
        where kind = 'code'
        union all
        select f.at, f.reason from hotmesh._field_section(value, scope, path) f
        where kind = 'section'
        union all
        select f.at, f.reason from hotmesh._field_retry(value, scope, path) f
        where kind = 'retry'
        union all
        select f.at, f.reason from hotmesh._field_object(array[kind], value, scope, path) f
        where kind in ('stats', 'conditions')
        union all
        select f.at, f.reason
        from hotmesh._field_items(rtrim(kind, 's'), value, scope, path) f
        where kind in ('measures', 'match')
        union all
        select f.at, f.reason from hotmesh._field_lists(kind, value, scope, path) f
        where kind in ('transitions', 'hooks');
end
$$;

-- The fields of an object.
create or replace function hotmesh._field_object(
    places text[], value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
begin
    if jsonb_typeof(value) <> 'object' then
        return query select path, format('it is %s, but has to be an object',
            hotmesh._field_shown(value));
        return;
    end if;
    return query
        select path || '.' || left(e.key, 60), format('unknown field; near to it: %s',
            hotmesh._flow_nearest(e.key, array(select k.name from hotmesh._field_known(places) k)))
        from jsonb_each(value) e
        where not exists (
            select from hotmesh._field_known(places) k where k.name = e.key)
        union all
        select path || '.' || k.name, 'it is missing'
        from hotmesh._field_known(places) k
        where k.needed and (
            value -> k.name is null or value -> k.name = 'null' and k.kind <> 'value')
        union all
        select f.at, f.reason
        from hotmesh._field_known(places) k
        cross join lateral hotmesh._field_value(
            k.kind, value -> k.name, scope, path || '.' || k.name) f;
end
$$;
