-- 83 search: the user's own facts about a job: attributes `_name`, which its start lays down (its
-- option `search`), workflow code changes under the lock of its job, and everybody reads. Values
-- are any json. Errors: 22023, MSH40 of the job.

--@ state

--@ behaviour
create or replace function hotmesh._search_fields(names jsonb)
returns text[]
language plpgsql
as $$
begin
    if jsonb_typeof(names) is distinct from 'array' or exists (
        select from jsonb_array_elements(names) n (name)
        where jsonb_typeof(n.name) <> 'string'
           or octet_length(n.name #>> '{}') not between 1 and 500)
    then
        perform hotmesh._refuse_argument(
            'a search attribute needs a name',
            format('Names were %s.', coalesce(left(names::text, 200), 'null')),
            'From 1 to 500 bytes.');
    end if;
    return array(
        select '_' || n.name
        from jsonb_array_elements_text(names) with ordinality n (name, place)
        order by n.place);
end
$$;

create or replace function hotmesh._search_set(job_id bigint, data jsonb)
returns integer
language plpgsql
as $$
declare
    v_fields text[];
begin
    if jsonb_typeof(data) is distinct from 'object' then
        perform hotmesh._refuse_argument(
            'search data is no JSON object', left(data::text, 200), 'Give {"name": value}.');
    end if;
    v_fields := hotmesh._search_fields(to_jsonb(array(select jsonb_object_keys(data))));
    if v_fields <> '{}' then
        perform hotmesh._attribute_facts(
            array_agg(_search_set.job_id), array_agg(f), array_agg(data -> substr(f, 2)))
        from unnest(v_fields) f;
    end if;
    return cardinality(v_fields);
end
$$;

-- Values in the order of the fields; a json null where there is none.
create or replace function hotmesh._search_values(job_id bigint, fields text[])
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(jsonb_agg(coalesce(a.value, 'null') order by f.place), '[]')
        from unnest(fields) with ordinality f (field, place)
        left join jobs_attributes a on a.job_id = _search_values.job_id and a.field = f.field);
end
$$;

create or replace function hotmesh._search_number(what text, value jsonb)
returns numeric
language plpgsql
as $$
begin
    if value is null or value = 'null' then
        return null;
    elsif jsonb_typeof(value) = 'number'
        or jsonb_typeof(value) = 'string'
            and length(value #>> '{}') < 1000
            and value #>> '{}' ~ '^\s*[-+]?\d+(\.\d+)?(e[-+]?\d{1,2})?\s*$'
    then
        return (value #>> '{}')::numeric;
    end if;
    perform hotmesh._refuse_argument(
        format('%s is no number', what), format('It is %s.', left(value::text, 200)),
        'incr and mult need numbers; set it to one first.');
end
$$;

-- What is missing counts as 0 for incr, as 1 for mult.
create or replace function hotmesh._search_calculate(
    job_id bigint, operation text, name text, amount jsonb)
returns jsonb
language plpgsql
as $$
declare
    v_field text := (hotmesh._search_fields(jsonb_build_array(name)))[1];
    v_by numeric := hotmesh._search_number('the amount', amount);
    v_old numeric := hotmesh._search_number(
        format('search attribute "%s"', name),
        hotmesh._search_values(job_id, array[v_field]) -> 0);
    v_new numeric := case operation
        when 'incr' then coalesce(v_old, 0) + v_by
        else coalesce(v_old, 1) * v_by end;
begin
    if v_new is null or abs(v_new) >= 1e1000 then
        perform hotmesh._refuse_argument(
            format('%s of search attribute "%s" makes no number', operation, name),
            'The amount is missing, or the number has more than 1000 digits.', 'Give a number.');
    end if;
    v_new := round(v_new, least(scale(v_new), 100));
    perform hotmesh._attribute_facts(array[job_id], array[v_field], array[to_jsonb(v_new)]);
    return to_jsonb(v_new);
end
$$;

-- Workflow code: set and enrich {"data": {…}}; get, mget and delete {"names": […]}; incr and mult
-- {"name": …, "amount": …}.
create or replace function hotmesh._search_effect(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
declare
    v_names jsonb := step.value -> 'names';
begin
    case step.name
        when 'set' then
            return to_jsonb(hotmesh._search_set(step.job_id, step.value -> 'data'));
        when 'enrich' then
            perform hotmesh._search_set(step.job_id, step.value -> 'data');
            return 'true';
        when 'get' then
            return hotmesh._search_values(step.job_id, hotmesh._search_fields(v_names)) -> 0;
        when 'mget' then
            return hotmesh._search_values(step.job_id, hotmesh._search_fields(v_names));
        when 'delete' then
            return to_jsonb(hotmesh._attribute_remove(
                step.job_id, hotmesh._search_fields(v_names)));
        when 'incr', 'mult' then
            return hotmesh._search_calculate(
                step.job_id, step.name, step.value ->> 'name', step.value -> 'amount');
        else
            perform hotmesh._refuse_argument(
                format('there is no search.%s', left(step.name, 60)),
                'Operations: set, get, mget, delete, incr, mult.', 'Check the spelling.');
    end case;
end
$$;

create or replace function hotmesh.search_get(app text, key text, fields text[] default null)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id bigint;
begin
    perform hotmesh._enter(app);
    v_id := hotmesh._find_place(coalesce(key, ''));
    return (
        select coalesce(jsonb_object_agg(f.name, coalesce(a.value, 'null')), '{}')
        from (
            select n.name,
                   case when n.name ~ '^".+"$' then substr(n.name, 2, length(n.name) - 2)
                        else '_' || n.name end as field
            from unnest(coalesce(fields, array(
                select substr(u.field, 2) from jobs_attributes_all u
                where u.job_id = v_id and u.sequence is null and u.field like '\_%'))) n (name)
            where n.name is not null) f
        left join jobs_attributes_all a on a.job_id = v_id and a.field = f.field);
end
$$;
comment on function hotmesh.search_get(text, text, text[]) is
'The user''s own facts about a job, all or those named, null where there is none. A name in double
quotes is that of any attribute, such as "input". Raises MSH40.';

create or replace function hotmesh.search_find(
    app text, entity text default null, conditions jsonb default '{}',
    take integer default 1000, skip integer default 0, before text default null)
returns table (key text, data jsonb, status bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    v_part hotmesh.find_part;
begin
    perform hotmesh._enter(app);
    perform hotmesh._find_check_page(coalesce(entity, 'any'), take, skip, null, false, before);
    v_part := hotmesh._find_group(null, conditions, '[null]', 0);
    return query
    select f.key, f.context, f.status
    from hotmesh._find_rows(
        'select key, (select coalesce(jsonb_object_agg(substr(a.field, 2), a.value), ''{}'')'
        || ' from jobs_attributes a where a.job_id = jobs.id and a.sequence is null'
        || ' and a.field like ''\_%''), status'
        || ' from jobs where ($1 is null or entity = $1) and ($6 is null or id < $6) and '
        || v_part.clause || ' order by id desc limit $3 offset $4',
        entity, v_part.bound, take, skip, null, hotmesh._find_place(before)) f;
end
$$;
comment on function hotmesh.search_find(text, text, jsonb, integer, integer, text) is
'Jobs by the user''s own facts about them, newest first, archived ones left out; conditions as for
entity_find, where a path begins with the name of a fact. It reads the entity''s jobs one by one;
what must be found by an index belongs into the entity. Raises 22023, MSH40 for an unknown
`before`.';
