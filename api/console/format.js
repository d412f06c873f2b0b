// Numbers, units and times for people, by the language of the page and the zone of the city.

import { language } from "./texts.js";

export let zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
export function useZone(name) {
  if (name) zone = name;
}

const SYMBOLS = {
  "1": "", Cel: "°C", deg: "°", "ug/m3": "µg/m³", "mg/m3": "mg/m³", "W/m2": "W/m²", m3: "m³", "[ppm]": "ppm", "kW.h": "kWh",
  "V.A{reactive}": "var", "{vehicle}/h": "/h", "{vehicle}": "",
};
const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

const made = new Map();
function formatter(kind, options) {
  const key = `${kind.name}|${language}|${zone}|${JSON.stringify(options)}`;
  if (!made.has(key)) made.set(key, new kind(language, options));
  return made.get(key);
}

export const symbol = (unit) => SYMBOLS[unit] ?? unit;

let labels = new Map();
/** Take the names of metrics from the catalogue, which includes the city's own. */
export function useCatalogue(metrics) {
  labels = new Map(metrics.map((metric) => [metric.name, { en: metric.label, vi: metric.label_vi }]));
}
export const metricName = (metric) => labels.get(metric)?.[language] ?? metric;

/** A value with its unit; sensors are not more precise than four digits. */
export function amount(value, unit) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 3;
  const sign = symbol(unit);
  return formatter(Intl.NumberFormat, { maximumFractionDigits: digits }).format(value) + (sign === "" || sign === "°" ? sign : ` ${sign}`);
}

export const count = (n) => formatter(Intl.NumberFormat, {}).format(n);

/** A duration in its two largest units. */
export function duration(ms) {
  const unit = (n, name) => formatter(Intl.NumberFormat, { style: "unit", unit: name, unitDisplay: "short" }).format(Math.floor(n));
  if (ms < 10 * SECOND) return formatter(Intl.NumberFormat, { style: "unit", unit: "second", unitDisplay: "short", maximumFractionDigits: 1 }).format(Math.max(0, ms) / SECOND);
  if (ms < MINUTE) return unit(ms / SECOND, "second");
  if (ms < HOUR) return unit(ms / MINUTE, "minute");
  const [large, small, names] = ms < DAY ? [HOUR, MINUTE, ["hour", "minute"]] : [DAY, HOUR, ["day", "hour"]];
  const rest = (ms % large) / small;
  return unit(ms / large, names[0]) + (rest >= 1 ? ` ${unit(rest, names[1])}` : "");
}

/** A duration for lists, in minutes at least, so that it changes once a minute. */
export const roughly = (ms) => (ms < MINUTE ? `< ${duration(MINUTE)}` : duration(ms));

export function moment(ms) {
  const options = { timeZone: zone, hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
  const far = Math.abs(Date.now() - ms) > 20 * HOUR;
  return formatter(Intl.DateTimeFormat, far ? { ...options, day: "2-digit", month: "2-digit", year: "numeric" } : options).format(ms);
}

// Offsets of zones change on quarter-hours only, so one is computed for each quarter-hour.
const offsets = new Map();
function offset(ms) {
  const slot = Math.floor(ms / (15 * MINUTE));
  let found = offsets.get(slot);
  if (found === undefined) {
    const parts = {};
    const at = new Date(slot * 15 * MINUTE);
    const clock = new Intl.DateTimeFormat("en", {
      timeZone: zone, year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric", hourCycle: "h23",
    });
    for (const { type, value } of clock.formatToParts(at)) parts[type] = Number(value);
    found = Date.UTC(parts.year, parts.month - 1, parts.day, parts.hour, parts.minute) - at.getTime();
    offsets.set(slot, found);
  }
  return found;
}

/** Local time in the zone, as the chart's axis takes it: a time without a zone. */
export const wall = (ms) => new Date(ms + offset(ms)).toISOString().slice(0, 23).replace("T", " ");

/** The beginning of today in the zone. */
export function midnight(now) {
  const there = now + offset(now);
  const start = there - (there % DAY);
  return start - offset(start - offset(now));
}
