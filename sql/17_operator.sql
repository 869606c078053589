-- 17 operator: the domains bitwise, conditional, logical and unary of @pipe.

--@ state

--@ behaviour
create or replace function hotmesh._bitwise_and(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_int32(a) & hotmesh._value_int32(b))
$$;

create or replace function hotmesh._bitwise_or(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_int32(a) | hotmesh._value_int32(b))
$$;

create or replace function hotmesh._bitwise_xor(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_int32(a) # hotmesh._value_int32(b))
$$;

create or replace function hotmesh._bitwise_left_shift(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_signed(
        hotmesh._value_int32(a) << (hotmesh._value_uint32(b) & 31)::integer))
$$;

create or replace function hotmesh._bitwise_right_shift(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_int32(a) >> (hotmesh._value_uint32(b) & 31)::integer)
$$;

create or replace function hotmesh._bitwise_unsigned_right_shift(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_uint32(a) >> (hotmesh._value_uint32(b) & 31)::integer)
$$;

create or replace function hotmesh._unary_not(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(not hotmesh._value_truth(value))
$$;

create or replace function hotmesh._unary_positive(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._value_number(value))
$$;

create or replace function hotmesh._unary_negative(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(-hotmesh._value_number(value))
$$;

create or replace function hotmesh._unary_bitwise_not(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(~ hotmesh._value_int32(value))
$$;

create or replace function hotmesh._conditional_ternary(
    condition jsonb, yes jsonb default null, no jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_truth(condition) then yes else no end
$$;

create or replace function hotmesh._conditional_equality(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_equal(a, b) then 'true'::jsonb else 'false'::jsonb end
$$;

create or replace function hotmesh._conditional_inequality(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(not hotmesh._value_equal(a, b))
$$;

create or replace function hotmesh._conditional_strict_equality(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_same(a, b))
$$;

create or replace function hotmesh._conditional_strict_inequality(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(not hotmesh._value_same(a, b))
$$;

create or replace function hotmesh._conditional_greater_than(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_less(b, a) then 'true'::jsonb else 'false'::jsonb end
$$;

create or replace function hotmesh._conditional_less_than(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_less(a, b) then 'true'::jsonb else 'false'::jsonb end
$$;

create or replace function hotmesh._conditional_greater_than_or_equal(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when not hotmesh._value_less(a, b) then 'true'::jsonb else 'false'::jsonb end
$$;

create or replace function hotmesh._conditional_less_than_or_equal(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when not hotmesh._value_less(b, a) then 'true'::jsonb else 'false'::jsonb end
$$;

create or replace function hotmesh._conditional_nullish(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(nullif(a, 'null'), b)
$$;

create or replace function hotmesh._logical_and(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_truth(a) then b else a end
$$;

create or replace function hotmesh._logical_or(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_truth(a) then a else b end
$$;
