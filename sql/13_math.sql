-- 13 math: the domain math of @pipe. The last digit of exp, sin and their kin is that of the
-- server's C library. add, subtract, multiply, divide take numbers, however deep in arrays.

--@ state

--@ behaviour
create or replace function hotmesh._math_operands(items jsonb[])
returns double precision[]
language plpgsql
immutable
parallel safe
as $$
declare
    v_item jsonb;
    v_numbers double precision[] := '{}';
begin
    foreach v_item in array items loop
        if jsonb_typeof(v_item) = 'array' then
            v_numbers := v_numbers || hotmesh._math_operands(
                array(select e from jsonb_array_elements(v_item) e));
        else
            v_numbers := v_numbers || hotmesh._value_number(v_item);
        end if;
    end loop;
    return v_numbers;
end
$$;

create or replace function hotmesh._math_add(variadic numbers jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_number double precision;
    v_result double precision := 0;
begin
    foreach v_number in array hotmesh._math_operands(numbers) loop
        v_result := hotmesh._number_plus(v_result, v_number);
    end loop;
    return hotmesh._value_pack(v_result);
end
$$;

create or replace function hotmesh._math_multiply(variadic numbers jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_number double precision;
    v_result double precision := 1;
begin
    foreach v_number in array hotmesh._math_operands(numbers) loop
        v_result := hotmesh._number_times(v_result, v_number);
    end loop;
    return hotmesh._value_pack(v_result);
end
$$;

create or replace function hotmesh._math_subtract(variadic numbers jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_number double precision;
    v_result double precision;
begin
    foreach v_number in array hotmesh._math_operands(numbers) loop
        v_result := case when v_result is null then v_number
                         else hotmesh._number_plus(v_result, -v_number) end;
    end loop;
    return hotmesh._value_pack(coalesce(v_result, 'NaN'));
end
$$;

create or replace function hotmesh._math_divide(variadic numbers jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_number double precision;
    v_result double precision;
begin
    foreach v_number in array hotmesh._math_operands(numbers) loop
        v_result := case when v_result is null then v_number
                         else hotmesh._number_over(v_result, v_number) end;
    end loop;
    return hotmesh._value_pack(coalesce(v_result, 'NaN'));
end
$$;

create or replace function hotmesh._math_within(
    n jsonb, low double precision, high double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(n);
begin
    return case when v_x between low and high then v_x else 'NaN' end;
end
$$;

create or replace function hotmesh._math_abs(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(abs(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_acos(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(acos(hotmesh._math_within(n, -1, 1)))
$$;

create or replace function hotmesh._math_acosh(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(acosh(hotmesh._math_within(n, 1, 'Infinity')))
$$;

create or replace function hotmesh._math_asin(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(asin(hotmesh._math_within(n, -1, 1)))
$$;

create or replace function hotmesh._math_asinh(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(asinh(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_atan(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(atan(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_atan2(y jsonb, x jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(atan2(hotmesh._value_number(y), hotmesh._value_number(x)))
$$;

create or replace function hotmesh._math_atanh(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(atanh(hotmesh._math_within(n, -1, 1)))
$$;

create or replace function hotmesh._math_cbrt(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(cbrt(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_ceil(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(ceil(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_clz32(n jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant bigint := hotmesh._value_uint32(n);
begin
    return to_jsonb(32 - length(ltrim(v_x::bit(32)::text, '0')));
end
$$;

create or replace function hotmesh._math_cos(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(cos(
        hotmesh._math_within(n, -1.7976931348623157e308, 1.7976931348623157e308)))
$$;

create or replace function hotmesh._math_cosh(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(cosh(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_exponential(x double precision)
returns double precision
language sql
immutable
parallel safe
as $$
    select case when x = '-Infinity' or x < -746 then 0
                when x between -746 and -700
                then hotmesh._number_times(exp(x + 100), exp(-100::float8))
                when x < 709.782712893384 then exp(x)
                when x = 'NaN' then x
                when x > 709.782712893384 then 'Infinity'
                else exp(x) end
$$;

create or replace function hotmesh._math_exp(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._math_exponential(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_expm1(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(
        case when v.x = 0 or e.u = 1 then v.x
             when abs(v.x) > 40 then e.u - 1
             else (e.u - 1) * (v.x / ln(e.u)) end)
    from (values (hotmesh._value_number(n))) v (x)
    cross join lateral (values (hotmesh._math_exponential(v.x))) e (u)
$$;

create or replace function hotmesh._math_floor(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(floor(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_fround(n jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(n);
begin
    return hotmesh._value_pack(
        case when not abs(v_x) < 'Infinity' or v_x = 0 then v_x
             when abs(v_x) >= 3.4028235677973366e38 then sign(v_x) * 'Infinity'::float8
             when abs(v_x) <= 7.006492321624085e-46 then sign(v_x) * 0.0
             else v_x::real end);
end
$$;

create or replace function hotmesh._math_hypot(variadic numbers jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(
        case when bool_or(abs(v.x) = 'Infinity') then 'Infinity'
             when bool_or(v.x = 'NaN') then 'NaN'
             else hotmesh._value_float(coalesce(sqrt(sum(
                 case when abs(v.x) < 'Infinity'
                      then v.x::text::numeric * v.x::text::numeric end)), 0)) end)
    from unnest(numbers) e (item) cross join lateral (values (hotmesh._value_number(e.item))) v (x)
$$;

create or replace function hotmesh._math_imul(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_signed(hotmesh._value_int32(a) * hotmesh._value_int32(b)))
$$;

create or replace function hotmesh._math_log(n jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(n);
begin
    return hotmesh._value_pack(
        case when v_x > 0 then ln(v_x) when v_x = 0 then '-Infinity' else 'NaN' end);
end
$$;

create or replace function hotmesh._math_log10(n jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(n);
begin
    return hotmesh._value_pack(
        case when v_x > 0 then log(v_x) when v_x = 0 then '-Infinity' else 'NaN' end);
end
$$;

create or replace function hotmesh._math_log1p(n jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(n);
begin
    return hotmesh._value_pack(
        case when v_x = 0 or v_x = 'Infinity' or 1 + v_x = 1 then v_x
             when v_x > -1 then ln(1 + v_x) * (v_x / ((1 + v_x) - 1))
             when v_x = -1 then '-Infinity'
             else 'NaN' end);
end
$$;

create or replace function hotmesh._math_log2(n jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(n);
begin
    return hotmesh._value_pack(
        case when v_x = 'Infinity' then v_x
             when v_x > 0 then
                 case when hotmesh._number_power(2, round(ln(v_x) / ln(2::float8))) = v_x
                      then round(ln(v_x) / ln(2::float8))
                      else ln(v_x) / ln(2::float8) end
             when v_x = 0 then '-Infinity'
             else 'NaN' end);
end
$$;

create or replace function hotmesh._math_max(variadic numbers jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_greatest(numbers))
$$;

create or replace function hotmesh._math_min(variadic numbers jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_least(numbers))
$$;

create or replace function hotmesh._math_pow(base jsonb, exponent jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_power(
        hotmesh._value_number(base), hotmesh._value_number(exponent)))
$$;

create or replace function hotmesh._math_random()
returns jsonb
language sql
volatile
as $$
    select to_jsonb(random())
$$;

create or replace function hotmesh._math_round(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_near(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_sign(n jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(n);
begin
    return hotmesh._value_pack(case when v_x = 0 or v_x = 'NaN' then v_x else sign(v_x) end);
end
$$;

create or replace function hotmesh._math_sin(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(sin(
        hotmesh._math_within(n, -1.7976931348623157e308, 1.7976931348623157e308)))
$$;

create or replace function hotmesh._math_sinh(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(sinh(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_sqrt(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(sqrt(hotmesh._math_within(n, 0, 'Infinity')))
$$;

create or replace function hotmesh._math_tan(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(tan(
        hotmesh._math_within(n, -1.7976931348623157e308, 1.7976931348623157e308)))
$$;

create or replace function hotmesh._math_tanh(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(tanh(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_trunc(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(trunc(hotmesh._value_number(n)))
$$;
