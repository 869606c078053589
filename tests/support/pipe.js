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
  string: methods("", "split charAt concat includes indexOf lastIndexOf slice toLowerCase toUpperCase trim trimStart trimEnd padStart padEnd replace search substring startsWith endsWith repeat"),
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

let text = "";
process.stdin.setEncoding("utf8").on("data", (chunk) => (text += chunk));
process.stdin.on("end", () => process.stdout.write(JSON.stringify(JSON.parse(text).map(call))));
