// The functions of @pipe as JavaScript has them: what a real engine answers to the calls of
// tests/sql/test_pipe.py. Standard input is an array of [function, arguments]; so is the answer.
"use strict";

const SPECIAL = { NaN: NaN, Infinity: Infinity, "-Infinity": -Infinity, "-0": -0 };

// Values on the wire: {"$number": "NaN"} and {"$undefined": true} are what they say.
const decode = (v) =>
  v && v.$undefined ? undefined : v && typeof v === "object" && v.$number in SPECIAL ? SPECIAL[v.$number] : v;

// jsonb's order of keys: short before long, then by bytes.
function sorted(v) {
  if (Array.isArray(v)) return v.map(sorted);
  if (v === null || typeof v !== "object") return v;
  const size = (k) => Buffer.byteLength(k);
  const keys = Object.keys(v).sort((a, b) => size(a) - size(b) || Buffer.compare(Buffer.from(a), Buffer.from(b)));
  return Object.fromEntries(keys.map((k) => [k, sorted(v[k])]));
}

function encode(v) {
  if (v === undefined) return { $undefined: true };
  if (typeof v === "number" && (!Number.isFinite(v) || Object.is(v, -0))) return { $number: Object.is(v, -0) ? "-0" : String(v) };
  if (v instanceof Date) return isNaN(v) ? { $number: "NaN" } : v.toISOString();
  return JSON.parse(JSON.stringify(v));
}

const numbers = (args) => args.flat(Infinity).map(Number);
const at = (o, k) => {
  const found = o?.[k];
  return typeof found === "function" || k === "__proto__" ? undefined : found;
};
const methods = (prototype, names) =>
  Object.fromEntries(names.split(" ").map((name) => [name, (self, ...args) => {
    if (Array.isArray(prototype) ? !Array.isArray(self) : typeof self !== typeof prototype) throw new TypeError();
    return prototype[name].apply(self, args);
  }]));
// We make texts of at most 2^24 characters.
const bounded = (name) => (self, ...args) => {
  const size = name === "repeat" ? self.length : args[1] === "" ? 0 : 1;
  if (typeof self !== "string" || Number(args[0]) * size > 2 ** 24) throw new RangeError();
  return self[name](...args);
};
const statics = (holder, names) => Object.fromEntries(names.split(" ").map((name) => [name, holder[name]]));
const rank = (v) => (typeof v === "number" ? 1 : typeof v === "string" ? 2 : 3);
const points = (a, b) => Buffer.compare(Buffer.from(String(a)), Buffer.from(String(b)));
const ascending = (a, b) => rank(a) - rank(b) || (typeof a === "number" ? a - b : points(a, b));
const date = (v) => new Date(v);
const on = (name) => (v, ...args) => date(v)[name](...args);
const utc = (name) => (v, ...args) => {
  while (args.length && args.at(-1) === undefined) args.pop();
  return date(v)[name](...(args.length ? args : [NaN]));
};
const parts = "Date Day FullYear Hours Milliseconds Minutes Month Seconds".split(" ");

const number = methods(0, "toFixed toExponential toPrecision");
const relations = { gte: (a, b) => a >= b, lte: (a, b) => a <= b, gt: (a, b) => a > b, lt: (a, b) => a < b };

const DOMAINS = {
  array: {
    ...methods([], "concat indexOf join lastIndexOf pop shift slice splice unshift reverse"),
    get: at,
    length: (a) => { if (!Array.isArray(a)) throw new TypeError(); return a.length; },
    push: (a, ...items) => { Array.prototype.push.apply(methods([], "slice").slice(a), []); a.push(...items); return a; },
    sort: (a, direction) => {
      const result = methods([], "slice").slice(a).sort(ascending);
      return direction === "DESCENDING" ? result.reverse() : result;
    },
  },
  bitwise: {
    and: (a, b) => a & b, or: (a, b) => a | b, xor: (a, b) => a ^ b, leftShift: (a, b) => a << b,
    rightShift: (a, b) => a >> b, unsignedRightShift: (a, b) => a >>> b,
  },
  conditional: {
    ternary: (c, t, f) => (c ? t : f), equality: (a, b) => a == b, strict_equality: (a, b) => a === b,
    inequality: (a, b) => a != b, strict_inequality: (a, b) => a !== b,
    greater_than: relations.gt, less_than: relations.lt, greater_than_or_equal: relations.gte,
    less_than_or_equal: relations.lte, nullish: (a, b) => a ?? b,
    eq: (a, b) => a == b, ne: (a, b) => a != b, neq: (a, b) => a != b, ...relations,
  },
  date: {
    fromISOString: date, parse: Date.parse, UTC: utc2,
    ...Object.fromEntries(parts.flatMap((p) => [[`get${p}`, on(`getUTC${p}`)], [`getUTC${p}`, on(`getUTC${p}`)]])),
    ...Object.fromEntries(parts.filter((p) => p !== "Day").flatMap((p) => [[`set${p}`, utc(`setUTC${p}`)], [`setUTC${p}`, utc(`setUTC${p}`)]])),
    ...Object.fromEntries("getTime getTimezoneOffset valueOf setTime toDateString toISOString toJSON toString toLocaleString toLocaleDateString toLocaleTimeString".split(" ").map((n) => [n, on(n)])),
    toISOXString: (v) => date(v).toISOString().replace(/(?!^)[:TZ-]/g, ""),
    yyyymmdd: (v) => date(v).toISOString().replace(/T.*|(?!^)-/g, ""),
  },
  json: { stringify: JSON.stringify, parse: JSON.parse },
  logical: { and: (a, b) => a && b, or: (a, b) => a || b },
  math: {
    ...statics(Math, "abs acos acosh asin asinh atan atan2 atanh cbrt ceil clz32 cos cosh exp expm1 floor fround hypot imul log log10 log1p log2 max min pow round sign sin sinh sqrt tan tanh trunc"),
    add: (...args) => numbers(args).reduce((a, b) => a + b, 0),
    multiply: (...args) => numbers(args).reduce((a, b) => a * b, 1),
    subtract: (...args) => (numbers(args).length ? numbers(args).reduce((a, b) => a - b) : NaN),
    divide: (...args) => (numbers(args).length ? numbers(args).reduce((a, b) => (b === 0 ? NaN : a / b)) : NaN),
  },
  number: {
    ...statics(Number, "isFinite isInteger isNaN parseFloat parseInt"), ...number, ...relations,
    isEven: (n) => Math.abs(n % 2) === 0, isOdd: (n) => Math.abs(n % 2) === 1,
    max: Math.max, min: Math.min, pow: Math.pow, round: Math.round,
  },
  object: {
    ...statics(Object, "keys values entries fromEntries getOwnPropertyNames getOwnPropertySymbols getOwnPropertyDescriptor defineProperty defineProperties freeze isFrozen seal isSealed preventExtensions isExtensible"),
    get: at,
    set: (o, k, v) => { o[k] = v; return o; },
    assign: (o, ...sources) => (o instanceof Object ? Object.assign(o, ...sources) : Object(o) && Object.assign(o, {}).valueOf()),
    create: (...args) => Object.fromEntries(args.flatMap((k, i) => (i % 2 ? [] : [[k, args[i + 1]]]))),
    hasOwnProperty: (o, k) => Object.prototype.hasOwnProperty.call(o, k),
    isPrototypeOf: (o, p) => { if (o == null) throw new TypeError(); return Object.prototype.isPrototypeOf.call(o, p); },
    propertyIsEnumerable: (o, k) => Object.prototype.propertyIsEnumerable.call(o, k),
  },
  string: { ...methods("", "split charAt concat includes indexOf lastIndexOf slice toLowerCase toUpperCase trim trimStart trimEnd padStart padEnd replace search substring startsWith endsWith"),
    ...Object.fromEntries(["padStart", "padEnd", "repeat"].map((name) => [name, bounded(name)])) },
  symbol: {
    null: () => null, undefined: () => undefined, whitespace: () => " ", object: () => ({}), array: () => [],
    posInfinity: () => Infinity, negInfinity: () => -Infinity, NaN: () => NaN,
  },
  unary: { not: (a) => !a, positive: (a) => +a, negative: (a) => -a, bitwise_not: (a) => ~a },
};

function utc2(...args) {
  const rest = [undefined, 0, 1, 0, 0, 0, 0];
  return Date.UTC(...rest.map((other, i) => args[i] === undefined ? other : args[i]));
}

function call([name, args]) {
  const [domain, member] = name.split(".");
  try {
    return encode(DOMAINS[domain][member](...args.map(decode).map(sorted)));
  } catch (error) {
    return { $throws: `${error.name} ${error.message}` };
  }
}

// Whole pipes, by the rules: a row is values; the next one's function is called with them, or with
// what nested pipes came to since; @reduce goes through [iterable, initial].
const isCall = (cell) => typeof cell === "string" && cell.startsWith("{@");
const named = (cell) => cell.slice(2, -1).split(".");
const apply = (cell, args) => {
  const [domain, member] = named(cell);
  return decode(encode(DOMAINS[domain][member](...args.map(sorted))));
};
const stored = (v) => (v === undefined ? v : JSON.parse(JSON.stringify(v)));
const needs = (cell) => named(cell)[0] !== "symbol";

function resolve(cell, scope) {
  if (isCall(cell)) return apply(cell, []);
  if (typeof cell === "string" && /^\{[$a-z].*\}$/.test(cell))
    return cell.slice(1, -1).split(".").reduce((v, key) => (v !== null && typeof v === "object" && Object.hasOwn(v, key) ? v[key] : undefined), scope);
  if (cell === null || typeof cell !== "object") return cell;
  if (cell["@pipe"]) return pipe(cell["@pipe"], scope);
  if (Array.isArray(cell)) return cell.map((item) => stored(resolve(item, scope)) ?? null);
  return Object.fromEntries(Object.entries(cell).map(([key, item]) => [key, stored(resolve(item, scope))]).filter(([, item]) => item !== undefined));
}

function reduce(body, [input, output = null], scope) {
  const entries = input !== null && typeof input === "object" ? Object.entries(sorted(input)) : [];
  entries.forEach(([$key, $item], $index) => {
    output = pipe(body, { ...scope, $input: input, $output: output, $item, $key, $index }, [output]);
  });
  return output;
}

function pipe(rows, scope, prior) {
  let values, queue = [], result;
  for (const row of rows) {
    const given = queue.length ? queue : values;
    if (row["@pipe"]) {
      queue.push((result = pipe(row["@pipe"], scope, values ?? prior)));
      continue;
    } else if (row["@reduce"]) values = [reduce(row["@reduce"], given, scope)];
    else {
      const args = given ?? (isCall(row[0]) && needs(row[0]) ? prior : undefined);
      values = row.map((cell, n) => (n === 0 && args && isCall(cell) ? apply(cell, args) : resolve(cell, scope)));
    }
    queue = [];
    result = values[0];
  }
  return result;
}

function whole({ pipe: rows, data }) {
  try {
    return encode(stored(pipe(rows, { t: { output: { data } } })));
  } catch (error) {
    return { $throws: `${error.name} ${error.message}` };
  }
}

let text = "";
process.stdin.setEncoding("utf8").on("data", (chunk) => (text += chunk));
process.stdin.on("end", () => process.stdout.write(JSON.stringify(JSON.parse(text).map((made) => (Array.isArray(made) ? call(made) : whole(made))))));
