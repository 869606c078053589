-- 11 value: what JavaScript makes of a JSON value: its type, number, text and truth, when two are
-- equal, which is less. Numbers are double precision; those of jsonb beyond it are rounded as
-- JSON.parse rounds. Pure functions. Errors: 22023.

--@ state

--@ behaviour
create or replace function hotmesh._value_type(value jsonb)
returns text
language plpgsql
immutable
parallel safe
as $$
begin
    return case when value is null then 'undefined'
                when jsonb_typeof(value) = 'object' and value ? '$number'
                    and value ->> '$number' in ('NaN', 'Infinity', '-Infinity', '-0')
                then 'number'
                else jsonb_typeof(value) end;
end
$$;

create or replace function hotmesh._value_pack(x double precision)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return case when x between -1.7976931348623157e308 and 1.7976931348623157e308
                    and (x <> 0 or x::text = '0')
                then x::text::jsonb
                else jsonb_build_object('$number', x::text) end;
end
$$;

create or replace function hotmesh._value_float(n numeric)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case when n = 0 then 0
                when abs(n) >= 1.797693134862315808e308 then sign(n) * 'Infinity'::float8
                when abs(n) <= 2.4703282292062327209e-324
                then case when n < 0 then '-0' else '0' end::float8
                else n::float8 end;
end
$$;

-- All decimal digits of a finite number, of which its text shows the first 17.
create or replace function hotmesh._value_exact(x double precision)
returns numeric
language plpgsql
immutable
parallel safe
as $$
declare
    v_bits constant bigint := ('x' || encode(float8send(abs(x)), 'hex'))::bit(64)::bigint;
    v_exponent integer := v_bits >> 52;
    v_digits numeric := v_bits & 4503599627370495;
begin
    if v_exponent > 0 then
        v_digits := v_digits + 4503599627370496;
    else
        v_exponent := 1;
    end if;
    v_exponent := v_exponent - 1075;
    if v_exponent >= 0 then
        return case when x < 0 then -1 else 1 end * v_digits * power(2::numeric, v_exponent);
    end if;
    -- m / 2^k is m * 5^k / 10^k
    while v_exponent < 0 and v_digits > 0 and v_digits % 2 = 0 loop
        v_digits := div(v_digits, 2);
        v_exponent := v_exponent + 1;
    end loop;
    return case when x < 0 then -1 else 1 end
        * trunc(v_digits * power(5::numeric, -v_exponent))
        * ('1e' || v_exponent)::numeric;
end
$$;

-- What trim takes away.
create or replace function hotmesh._value_white()
returns text
language plpgsql
immutable
parallel safe
as $$
begin
    return E'\t\n\u000b\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007'
        || E'\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff';
end
$$;

create or replace function hotmesh._value_radix(digits text, radix integer)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_number numeric := 0;
    v_digit text;
begin
    if length(digits) > 1100 then
        return 'Infinity';
    end if;
    foreach v_digit in array regexp_split_to_array(lower(digits), '') loop
        v_number := v_number * radix + strpos('0123456789abcdefghijklmnopqrstuvwxyz', v_digit) - 1;
    end loop;
    return hotmesh._value_float(v_number);
end
$$;

-- A decimal literal, however large its exponent.
create or replace function hotmesh._value_decimal(word text)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_parts constant text[] := regexp_match(word, '^([^eE]*)(?:[eE]([+-]?)0*([0-9]*))?$');
begin
    if length(v_parts[3]) > 4 or length(word) > 10000 then
        return case when v_parts[1] !~ '[1-9]' then '0'
                    when v_parts[2] = '-' then '0'
                    when left(word, 1) = '-' then '-Infinity'
                    else 'Infinity' end;
    elsif word ~ '^-[0.]+([eE]|$)' then
        return '-0';
    end if;
    return hotmesh._value_float(word::numeric);
end
$$;

-- The number that a text is.
create or replace function hotmesh._value_read(word text)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_word constant text := btrim(word, hotmesh._value_white());
begin
    return case
        when v_word = '' then 0
        when v_word ~ '^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?$'
        then hotmesh._value_decimal(v_word)
        when v_word ~ '^0[xX][0-9a-fA-F]+$' then hotmesh._value_radix(substr(v_word, 3), 16)
        when v_word ~ '^0[oO][0-7]+$' then hotmesh._value_radix(substr(v_word, 3), 8)
        when v_word ~ '^0[bB][01]+$' then hotmesh._value_radix(substr(v_word, 3), 2)
        when v_word ~ '^[+-]?Infinity$' then v_word::float8
        else 'NaN' end;
end
$$;

create or replace function hotmesh._value_number(value jsonb)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case jsonb_typeof(value)
           when 'number' then case when octet_length(value::text) < 300 then value::float8
                                   else hotmesh._value_float(value::numeric) end
           when 'string' then hotmesh._value_read(value #>> '{}')
           when 'boolean' then value::boolean::integer
           when 'null' then 0
           when 'array' then hotmesh._value_read(hotmesh._value_text(value))
           when 'object' then
               case when hotmesh._value_type(value) = 'number'
                    then (value ->> '$number')::float8 else 'NaN' end
           else 'NaN' end;
end
$$;

-- The text of a number that is read as it again. Right between two numbers fewer digits may do:
-- JavaScript takes those.
create or replace function hotmesh._value_short(x double precision)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    v_text text := x::text;
    v_parts constant text[] := string_to_array(v_text, 'e');
    v_near text;
begin
    if abs(x) < 1e16 or abs(x) > 1e40 then
        return v_text;
    end if;
    for places in reverse 15..12 loop
        v_near := trim_scale(round(v_parts[1]::numeric, places)) || 'e' || v_parts[2];
        exit when v_near::float8 <> x;
        v_text := v_near;
    end loop;
    return v_text;
end
$$;

-- A number as JavaScript writes it.
create or replace function hotmesh._value_digits(x double precision)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    v_text constant text := hotmesh._value_short(x);
begin
    return case when x = 0 then '0'
                when strpos(v_text, 'e') = 0 then v_text
                when abs(x) >= 1e-6 and abs(x) < 1e21 then v_text::numeric::text
                else regexp_replace(v_text, 'e([+-])0', 'e\1') end;
end
$$;

create or replace function hotmesh._value_text(value jsonb)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    v_type constant text := hotmesh._value_type(value);
begin
    if v_type = 'string' then
        return value #>> '{}';
    elsif v_type = 'number' then
        return hotmesh._value_digits(hotmesh._value_number(value));
    elsif v_type = 'array' then
        return coalesce((
            select string_agg(
                case when e.item = 'null' then '' else hotmesh._value_text(e.item) end, ','
                order by e.n)
            from jsonb_array_elements(value) with ordinality e (item, n)), '');
    end if;
    return case v_type when 'undefined' then v_type
                       when 'object' then '[object Object]'
                       else value::text end;
end
$$;

create or replace function hotmesh._value_truth(value jsonb)
returns boolean
language plpgsql
immutable
parallel safe
as $$
begin
    return case hotmesh._value_type(value)
           when 'boolean' then value::boolean
           when 'string' then value <> '""'
           when 'number' then abs(hotmesh._value_number(value)) between 5e-324 and 'Infinity'
           when 'undefined' then false
           when 'null' then false
           else true end;
end
$$;

create or replace function hotmesh._value_integer(value jsonb)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(value);
begin
    return case when v_x = 'NaN' or v_x = 0 then 0 else trunc(v_x) end;
end
$$;

create or replace function hotmesh._value_uint32(value jsonb)
returns bigint
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(value);
begin
    return case when abs(v_x) < 9e15 then trunc(v_x)::bigint & 4294967295
                when abs(v_x) <= 1.7976931348623157e308
                then mod(hotmesh._value_exact(trunc(v_x)), 4294967296)::bigint & 4294967295
                else 0 end;
end
$$;

-- The low 32 bits, as a signed number.
create or replace function hotmesh._value_signed(n bigint)
returns bigint
language plpgsql
immutable
parallel safe
as $$
begin
    return ((n & 4294967295) # 2147483648) - 2147483648;
end
$$;

create or replace function hotmesh._value_int32(value jsonb)
returns bigint
language plpgsql
immutable
parallel safe
as $$
begin
    return hotmesh._value_signed(hotmesh._value_uint32(value));
end
$$;

-- a === b
create or replace function hotmesh._value_same(a jsonb, b jsonb)
returns boolean
language plpgsql
immutable
parallel safe
as $$
begin
    return case when hotmesh._value_type(a) <> hotmesh._value_type(b) then false
                else case hotmesh._value_type(a)
                     when 'number' then hotmesh._value_number(a) = hotmesh._value_number(b)
                         and hotmesh._value_number(a) <> 'NaN'
                     when 'undefined' then true
                     when 'array' then false
                     when 'object' then false
                     else a = b end end;
end
$$;

-- An array or object as an operator takes it: its text.
create or replace function hotmesh._value_plain(value jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return case when hotmesh._value_type(value) in ('array', 'object')
                then to_jsonb(hotmesh._value_text(value)) else value end;
end
$$;

-- a == b
create or replace function hotmesh._value_equal(a jsonb, b jsonb)
returns boolean
language plpgsql
immutable
parallel safe
as $$
declare
    v_a constant text := hotmesh._value_type(a);
    v_b constant text := hotmesh._value_type(b);
begin
    if v_a = v_b then
        return hotmesh._value_same(a, b);
    elsif v_a in ('null', 'undefined') or v_b in ('null', 'undefined') then
        return v_a in ('null', 'undefined') and v_b in ('null', 'undefined');
    elsif v_a in ('array', 'object') and v_b in ('array', 'object') then
        return false;
    elsif v_a in ('string', 'array', 'object') and v_b in ('string', 'array', 'object') then
        return hotmesh._value_text(a) = hotmesh._value_text(b);
    end if;
    return hotmesh._value_number(a) = hotmesh._value_number(b)
        and hotmesh._value_number(a) <> 'NaN';
end
$$;

-- a < b; null: they can't be compared.
create or replace function hotmesh._value_less(a jsonb, b jsonb)
returns boolean
language plpgsql
immutable
parallel safe
as $$
declare
    v_a jsonb;
    v_b jsonb;
    v_x double precision;
    v_y double precision;
begin
    if jsonb_typeof(a) = 'number' and jsonb_typeof(b) = 'number' then
        return hotmesh._value_float(a::numeric) < hotmesh._value_float(b::numeric);
    end if;
    v_a := hotmesh._value_plain(a);
    v_b := hotmesh._value_plain(b);
    if jsonb_typeof(v_a) = 'string' and jsonb_typeof(v_b) = 'string' then
        return (v_a #>> '{}') collate "C" < (v_b #>> '{}') collate "C";
    end if;
    v_x := hotmesh._value_number(v_a);
    v_y := hotmesh._value_number(v_b);
    return case when v_x <> 'NaN' and v_y <> 'NaN' then v_x < v_y end;
end
$$;

-- Where slice begins or ends: from the end if negative, never outside.
create or replace function hotmesh._value_place(value jsonb, length integer, fallback integer)
returns integer
language plpgsql
immutable
parallel safe
as $$
declare
    v_x double precision;
begin
    if value is null then
        return fallback;
    end if;
    v_x := hotmesh._value_integer(value);
    return case when v_x < 0 then greatest(v_x + length, 0)
                else least(v_x, length) end::integer;
end
$$;

create or replace function hotmesh._value_string(value jsonb, what text)
returns text
language plpgsql
immutable
parallel safe
as $$
begin
    return case when jsonb_typeof(value) = 'string' then value #>> '{}'
                else hotmesh._pipe_refuse(
                    format('%s needs a string', what), left(value::text, 100)) #>> '{}' end;
end
$$;

create or replace function hotmesh._value_array(value jsonb, what text)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return case when jsonb_typeof(value) = 'array' then value
                else hotmesh._pipe_refuse(
                    format('%s needs an array', what), left(value::text, 100)) end;
end
$$;

-- Anything but null and undefined.
create or replace function hotmesh._value_present(value jsonb, what text)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return case when jsonb_typeof(value) <> 'null' then value
                else hotmesh._pipe_refuse(
                    format('%s needs a value', what), left(value::text, 100)) end;
end
$$;

-- value?.[key]
create or replace function hotmesh._value_property(value jsonb, key text)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return case jsonb_typeof(value)
           when 'object' then value -> key
           when 'array' then
               case when key = 'length' then to_jsonb(jsonb_array_length(value))
                    when key ~ '^(0|[1-9][0-9]{0,8})$' then value -> key::integer end
           when 'string' then
               case when key = 'length' then to_jsonb(length(value #>> '{}'))
                    when key ~ '^(0|[1-9][0-9]{0,8})$'
                    then to_jsonb(nullif(substr(value #>> '{}', key::integer + 1, 1), '')) end
           end;
end
$$;
