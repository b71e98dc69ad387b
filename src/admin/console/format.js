// Numbers, sizes and times as people read them, in the reader's language and zone.

import { make } from "./dom.js";

/** What stands where nothing is known. */
export const UNKNOWN = "–";

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat(undefined, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const hundredths = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** A number with three digits that matter, or all of them before the point. */
function digits(value) {
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return whole.format(value);
  return (size >= 10 ? tenths : hundredths).format(value);
}

export function count(value) {
  return isNumber(value) ? whole.format(value) : UNKNOWN;
}

/** "1 event", "2 events". */
export function counted(value, word) {
  return `${count(value)} ${value === 1 ? word : `${word}s`}`;
}

/** Value and unit, for where they are set apart. */
export function bytesParts(value) {
  if (!isNumber(value)) return [UNKNOWN, ""];
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  let rest = value;
  while (Math.abs(rest) >= 1024 && unit < units.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  return [unit === 0 ? whole.format(rest) : digits(rest), units[unit]];
}

export const bytes = (value) => bytesParts(value).join("\u00a0").trim();

export function perSecond(value) {
  if (!isNumber(value)) return UNKNOWN;
  return value >= 100 || Number.isInteger(value) ? whole.format(value) : tenths.format(value);
}

/** A span of time, from microseconds to days. */
export function spanParts(seconds) {
  if (!isNumber(seconds)) return [UNKNOWN, ""];
  const size = Math.abs(seconds);
  if (size === 0) return ["0", "s"];
  if (size < 0.001) return [digits(seconds * 1e6), "µs"];
  if (size < 1) return [digits(seconds * 1e3), "ms"];
  if (size < 100) return [digits(seconds), "s"];
  if (size < 5400) return [digits(seconds / 60), "min"];
  if (size < 172800) return [digits(seconds / 3600), "h"];
  return [digits(seconds / 86400), "days"];
}

export const span = (seconds) => spanParts(seconds).join("\u00a0").trim();

const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "always", style: "long" });

export const clockTime = (moment) => clock.format(moment);

/** How far a moment is from now, in words. */
export function fromNow(moment, now = Date.now()) {
  const seconds = (moment - now) / 1000;
  const size = Math.abs(seconds);
  if (size < 60) return relative.format(Math.round(seconds), "second");
  if (size < 3600) return relative.format(Math.round(seconds / 60), "minute");
  if (size < 86400) return relative.format(Math.round(seconds / 3600), "hour");
  return relative.format(Math.round(seconds / 86400), "day");
}

/** A time in the reader's zone; pointing at it shows UTC. `near` tells how far it is, instead. */
export function time(text, near = false) {
  const moment = Date.parse(text ?? "");
  if (Number.isNaN(moment)) return make("span", {}, text ?? UNKNOWN);
  const utc = `${new Date(moment).toISOString().replace("T", " ").replace("Z", "")} UTC`;
  const here = full.format(moment);
  const title = near ? `${here} · ${utc}` : utc;
  return make("time", { datetime: text, title }, near ? fromNow(moment) : here);
}
