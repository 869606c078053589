-- 12 number: arithmetic that overflows to Infinity and underflows to 0 instead of failing, how
-- numbers are written, and the domain number of @pipe. Errors: 22023.

--@ state

--@ behaviour
create or replace function hotmesh._number_plus(a double precision, b double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case when abs(a) < 8e307 and abs(b) < 8e307
                    or abs(a) >= 'Infinity' or abs(b) >= 'Infinity' then a + b
                when abs(a) < 1 then b
                when abs(b) < 1 then a
                when abs(a / 2 + b / 2) >= 8.98846567431158e307
                then sign(a) * 'Infinity'::float8
                else (a / 2 + b / 2) * 2 end;
end
$$;

-- A product that may be too large or too small for double precision.
create or replace function hotmesh._number_scaled(a double precision, b double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_size constant double precision := log(abs(a)) + log(abs(b));
    v_one constant double precision := greatest(abs(a), abs(b));
    v_two constant double precision := least(abs(a), abs(b));
    v_sign constant double precision := sign(a) * sign(b);
begin
    if v_size between -300 and 300 then
        return a * b;
    elsif v_size > 300 then
        -- 2^-64 and back
        return v_sign * case
            when v_size > 309 or v_one / 18446744073709551616.0 * v_two >= 9.745314011399999e288
            then 'Infinity'
            else v_one / 18446744073709551616.0 * v_two * 18446744073709551616.0 end;
    elsif v_size < -325 then
        return v_sign * 0.0;
    end if;
    return hotmesh._value_float(hotmesh._value_exact(a) * hotmesh._value_exact(b));
end
$$;

create or replace function hotmesh._number_times(a double precision, b double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case when a = 0 or b = 0 or abs(a) >= 'Infinity' or abs(b) >= 'Infinity'
                    or abs(a) between 1e-150 and 1e150 and abs(b) between 1e-150 and 1e150
                then a * b
                else hotmesh._number_scaled(a, b) end;
end
$$;

-- By 0 it is NaN: so HotMesh divides.
create or replace function hotmesh._number_over(a double precision, b double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_size double precision;
begin
    if b = 0 then
        return 'NaN';
    elsif a = 0 or abs(a) >= 'Infinity' or abs(b) >= 'Infinity' then
        return a / b;
    end if;
    v_size := log(abs(a)) - log(abs(b));
    return case when v_size between -300 and 300 then a / b
                when v_size > 309 then sign(a) * sign(b) * 'Infinity'::float8
                when v_size < -325 then sign(a) * sign(b) * 0.0
                when v_size > 0
                then hotmesh._number_times(
                    a / (b * 18446744073709551616.0), 18446744073709551616.0)
                else hotmesh._value_float((
                    trunc(hotmesh._value_exact(a) * 1e360 / hotmesh._value_exact(b)) || 'e-360'
                    )::numeric) end;
end
$$;

create or replace function hotmesh._number_power(a double precision, b double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_odd constant boolean := abs(b) < 9007199254740992 and trunc(b) = b
        and mod(b::bigint, 2) <> 0;
    v_size double precision;
begin
    if b = 0 then
        return 1;
    elsif a = 'NaN' or b = 'NaN' or abs(a) = 1 and abs(b) = 'Infinity'
        or a < 0 and abs(a) < 'Infinity' and abs(b) < 'Infinity' and trunc(b) <> b
    then
        return 'NaN';
    elsif a = 0 then
        return case when b < 0 then 'Infinity'::float8 else 0.0 end
            * case when v_odd and a::text = '-0' then -1 else 1 end;
    elsif abs(a) = 'Infinity' or abs(b) = 'Infinity' then
        return case when (abs(a) > 1) = (b > 0) then 'Infinity'::float8 else 0.0 end
            * case when v_odd and a < 0 then -1 else 1 end;
    end if;
    v_size := hotmesh._number_times(ln(abs(a)), b);
    return case when v_size > 710 then 'Infinity'::float8 when v_size < -746 then 0.0
                when abs(v_size) < 700 then power(abs(a), b)
                else hotmesh._number_times(power(abs(a), b / 2), power(abs(a), b / 2)) end
        * case when v_odd and a < 0 then -1 else 1 end;
end
$$;

-- Halves go up, -0.5 to -0.
create or replace function hotmesh._number_near(x double precision)
returns double precision
language sql
immutable
parallel safe
as $$
    select case when abs(x) < 4503599627370496
                then case when x < 0 and x >= -0.5 then '-0'::float8
                          when x - floor(x) >= 0.5 then ceil(x)
                          else floor(x) end
                else x end
$$;

create or replace function hotmesh._number_greatest(numbers jsonb[])
returns double precision
language sql
immutable
parallel safe
as $$
    select case when bool_or(n.x = 'NaN') then 'NaN'
                when max(n.x) = 0 and bool_or(n.x::text = '0') then 0
                else coalesce(max(n.x), '-Infinity') end
    from unnest(numbers) e (item)
    cross join lateral (values (hotmesh._value_number(e.item))) n (x)
$$;

create or replace function hotmesh._number_least(numbers jsonb[])
returns double precision
language sql
immutable
parallel safe
as $$
    select case when bool_or(n.x = 'NaN') then 'NaN'
                when min(n.x) = 0 and bool_or(n.x::text = '-0') then '-0'
                else coalesce(min(n.x), 'Infinity') end
    from unnest(numbers) e (item)
    cross join lateral (values (hotmesh._value_number(e.item))) n (x)
$$;

create or replace function hotmesh._number_is_finite(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_type(n) = 'number'
        and abs(hotmesh._value_number(n)) <= 1.7976931348623157e308)
$$;

create or replace function hotmesh._number_is_nan(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_type(n) = 'number' and hotmesh._value_number(n) = 'NaN')
$$;

create or replace function hotmesh._number_is_integer(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_type(n) = 'number'
        and abs(hotmesh._value_number(n)) <= 1.7976931348623157e308
        and trunc(hotmesh._value_number(n)) = hotmesh._value_number(n))
$$;

-- Of the division by 2, without its sign.
create or replace function hotmesh._number_remainder(x double precision)
returns double precision
language sql
immutable
parallel safe
as $$
    select case when abs(x) < 2 then abs(x)
                when abs(x) < 9007199254740992
                then abs(x) - 2 * floor(abs(x) / 2)
                when abs(x) < 'Infinity' then 0
                else 'NaN' end
$$;

create or replace function hotmesh._number_is_even(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._number_remainder(hotmesh._value_number(n)) = 0)
$$;

create or replace function hotmesh._number_is_odd(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._number_remainder(hotmesh._value_number(n)) = 1)
$$;

create or replace function hotmesh._number_gte(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(not hotmesh._value_less(a, b), false))
$$;

create or replace function hotmesh._number_lte(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(not hotmesh._value_less(b, a), false))
$$;

create or replace function hotmesh._number_gt(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(hotmesh._value_less(b, a), false))
$$;

create or replace function hotmesh._number_lt(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(hotmesh._value_less(a, b), false))
$$;

create or replace function hotmesh._number_max(variadic numbers jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_greatest(numbers))
$$;

create or replace function hotmesh._number_min(variadic numbers jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_least(numbers))
$$;

create or replace function hotmesh._number_pow(base jsonb, exponent jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_power(
        hotmesh._value_number(base), hotmesh._value_number(exponent)))
$$;

create or replace function hotmesh._number_round(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_near(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._number_parse_float(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(coalesce(
        hotmesh._value_read(substring(
            ltrim(hotmesh._value_text(value), hotmesh._value_white())
            from '^[+-]?(?:Infinity|(?:[0-9]+[.]?[0-9]*|[.][0-9]+)(?:[eE][+-]?[0-9]+)?)')),
        'NaN'))
$$;

create or replace function hotmesh._number_parse_int(value jsonb, radix jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_parts constant text[] := regexp_match(
        ltrim(hotmesh._value_text(value), hotmesh._value_white()), '^([+-]?)(0[xX])?(.*)$');
    v_asked constant integer := hotmesh._value_int32(radix);
    v_hex constant boolean := v_parts[2] is not null and v_asked in (0, 16);
    v_radix constant integer := case when v_hex then 16 when v_asked = 0 then 10
                                     else v_asked end;
    v_digits text;
begin
    if v_radix not between 2 and 36 then
        return hotmesh._value_pack('NaN');
    end if;
    v_digits := substring(
        lower(case when v_hex then '' else coalesce(v_parts[2], '') end || v_parts[3])
        from format('^[%s]+', left('0123456789abcdefghijklmnopqrstuvwxyz', v_radix)));
    return hotmesh._value_pack(
        case when v_digits is null then 'NaN'
             else hotmesh._value_radix(v_digits, v_radix)
                * case when v_parts[1] = '-' then -1 else 1 end end);
end
$$;

create or replace function hotmesh._number_needed(n jsonb, what text)
returns double precision
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_type(n) = 'number' then hotmesh._value_number(n)
                else (hotmesh._pipe_refuse(
                    format('%s needs a number', what), left(n::text, 100)) #>> '{}')::float8 end
$$;

create or replace function hotmesh._number_places(digits jsonb, low integer, what text)
returns integer
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_integer(digits) between low and 100
                then hotmesh._value_integer(digits)::integer
                else (hotmesh._pipe_refuse(
                    format('%s takes %s to 100 digits', what, low),
                    left(digits::text, 100)) #>> '{}')::integer end
$$;

create or replace function hotmesh._number_to_fixed(n jsonb, digits jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._number_needed(n, 'number.toFixed');
    v_places constant integer := hotmesh._number_places(digits, 0, 'number.toFixed');
begin
    if not abs(v_x) < 1e21 then
        return to_jsonb(hotmesh._value_digits(v_x));
    end if;
    return to_jsonb(
        case when v_x < 0 then '-' else '' end
        || round(abs(hotmesh._value_exact(v_x)), v_places)::text);
end
$$;

-- One digit before the point, so many in all.
create or replace function hotmesh._number_scientific(n numeric, digits integer)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    v_exponent integer := case
        when n = 0 then 0
        when abs(n) >= 1 then length(trunc(abs(n))::text) - 1
        else -length(substring(abs(n)::text from '[.](0*)')) - 1 end;
    v_rounded constant numeric := round(abs(n), digits - 1 - v_exponent);
    v_digits text;
begin
    if v_rounded >= ('1e' || v_exponent + 1)::numeric then
        v_exponent := v_exponent + 1;
    end if;
    v_digits := rpad(ltrim(replace(v_rounded::text, '.', ''), '0'), digits, '0');
    return case when n < 0 then '-' else '' end || left(v_digits, 1)
        || case when digits > 1 then '.' || substr(v_digits, 2, digits - 1) else '' end
        || case when v_exponent < 0 then 'e-' else 'e+' end || abs(v_exponent);
end
$$;

create or replace function hotmesh._number_to_exponential(n jsonb, digits jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._number_needed(n, 'number.toExponential');
    v_places constant integer :=
        case when not abs(v_x) < 'Infinity' then 0
             else hotmesh._number_places(digits, 0, 'number.toExponential') end;
    v_short constant text := regexp_replace(
        hotmesh._value_short(v_x), 'e.*|[-.]', '', 'g');
begin
    if not abs(v_x) < 'Infinity' then
        return to_jsonb(v_x::text);
    elsif digits is null then
        return to_jsonb(hotmesh._number_scientific(
            (abs(v_x)::text)::numeric * sign(v_x)::integer,
            greatest(length(btrim(v_short, '0')), 1)));
    end if;
    return to_jsonb(hotmesh._number_scientific(hotmesh._value_exact(v_x), v_places + 1));
end
$$;

create or replace function hotmesh._number_to_precision(n jsonb, digits jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._number_needed(n, 'number.toPrecision');
    v_digits integer;
    v_text text;
    v_exponent integer;
begin
    if digits is null or not abs(v_x) < 'Infinity' then
        return to_jsonb(hotmesh._value_digits(v_x));
    end if;
    v_digits := hotmesh._number_places(digits, 1, 'number.toPrecision');
    v_text := hotmesh._number_scientific(hotmesh._value_exact(v_x), v_digits);
    v_exponent := split_part(v_text, 'e', 2)::integer;
    if v_exponent between -6 and v_digits - 1 then
        v_text := round(v_text::numeric, v_digits - 1 - v_exponent)::text;
    end if;
    return to_jsonb(v_text);
end
$$;
