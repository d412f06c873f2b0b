// One series as a chart, drawn by plotly.js, which is loaded when the first sensor is opened.
//
// Means are a line with the span from minimum to maximum behind it, sums are bars, and readings that a flag keeps out are crosses.
// Where readings are missing for longer than allowed, the line is interrupted and the background shaded.

import { get } from "./api.js";
import { h } from "./dom.js";
import { amount, count, duration, moment, symbol, wall, zone } from "./format.js";
import { SILENCE, isBad } from "./store.js";
import { language, t } from "./texts.js";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
//: Ranges of time, with the bucket and its width; `raw`: every reading.
export const RANGES = {
  "1h": { length: HOUR, bucket: "raw", width: 0 },
  "24h": { length: DAY, bucket: "1m", width: MINUTE },
  "7d": { length: 7 * DAY, bucket: "15m", width: 15 * MINUTE },
  "30d": { length: 30 * DAY, bucket: "1h", width: HOUR },
};
//: Most flagged readings and gaps that are drawn.
const MOST_FLAGGED = 2_000;
const MOST_GAPS = 200;
const AGGREGATES = { amount: ["sum"], counter: ["increase"], direction: ["mean"], level: ["mean", "min", "max"], state: ["mean"] };
const GAUGE = ["mean", "min", "max"];

//: plotly.js adds MapLibre's styles to the page unless an element with this id exists. The policy would refuse them; nothing uses them.
const MAPLIBRE = "9f215cf04c5486422605d13261cb87401f4e7763b6296af81e98efbc0130da53";

let plotly = null;
function library() {
  plotly ??= new Promise((resolve, reject) => {
    document.head.append(h("meta", { id: MAPLIBRE }));
    const script = h("script", { src: "/console/lib/plotly.js" });
    script.onload = () => {
      register(window.Plotly);
      resolve(window.Plotly);
    };
    script.onerror = () => {
      plotly = null;
      reject(new Error("plotly.js"));
    };
    document.head.append(script);
  });
  return plotly;
}

function register(Plotly) {
  const names = (options, times) => times.map((at) => new Intl.DateTimeFormat("vi", { timeZone: "UTC", ...options }).format(at));
  const days = [...Array(7).keys()].map((i) => Date.UTC(2023, 0, 1 + i)); // a Sunday
  const months = [...Array(12).keys()].map((i) => Date.UTC(2023, i, 1));
  Plotly.register({
    moduleType: "locale", name: "vi", dictionary: {},
    format: {
      days: names({ weekday: "long" }, days), shortDays: names({ weekday: "short" }, days),
      months: names({ month: "long" }, months), shortMonths: [...Array(12).keys()].map((i) => `Th${i + 1}`),
      date: "%d/%m/%Y", decimal: ",", thousands: ".", year: "%Y", month: "%m/%Y", dayMonth: "%d/%m", dayMonthYear: "%d/%m/%Y",
    },
  });
}

const least = (values) => values.reduce((a, b) => (b === null ? a : Math.min(a, b)), Infinity);
const most = (values) => values.reduce((a, b) => (b === null ? a : Math.max(a, b)), -Infinity);
const iso = (ms) => new Date(ms).toISOString();

export class Chart {
  constructor(element, store) {
    this.element = element;
    this.store = store;
    this.shown = null;
  }

  /** Request a sensor's readings and draw them. `sensor` is an entry of the API with metric, unit, kind, interval and bounds. */
  async open(device, sensor, range) {
    const { length, bucket, width } = RANGES[range];
    const start = this.store.now() - length;
    const since = Date.parse(this.store.devices.get(device).created_at); // before that no reading was due
    const asked = { device, metric: sensor.metric, from: iso(start) };
    const wanted = AGGREGATES[sensor.kind] ?? GAUGE;
    const until = this.store.sensor(device, sensor.metric)?.time ?? -Infinity;
    const turn = (this.turn = {});
    this.waiting = []; // readings from the stream between request and answer
    const [series, flagged, Plotly] = await Promise.all([
      get("/v1/series", bucket === "raw" ? { ...asked, bucket } : { ...asked, bucket, aggregates: [...wanted, "count"], tz: zone }),
      bucket === "raw" ? null : get("/v1/readings", { ...asked, flags: "only_bad", order: "desc", limit: MOST_FLAGGED }),
      library(),
    ]);
    if (turn !== this.turn) return;
    // The answer contains the readings that the page had at the time of the request; they are not drawn again.
    this.shown = { device, sensor, range, start, since, width, length, wanted, until };
    if (bucket === "raw") this.takeRaw(series.columns);
    else this.takeBuckets(series.columns, flagged.columns);
    const waiting = this.waiting;
    this.waiting = null;
    for (const reading of waiting) this.append(...reading);
    await this.draw(Plotly);
  }

  takeRaw(columns) {
    const points = { time: [], value: [], low: null, high: null };
    const crosses = { time: [], value: [], text: [] };
    columns.time.forEach((time, i) => this.place(points, crosses, time, columns.value[i], columns.flags[i]));
    Object.assign(this.shown, { points, crosses, until: Math.max(this.shown.until, columns.time.at(-1) ?? -Infinity) });
  }

  takeBuckets(columns, flagged) {
    const { wanted } = this.shown;
    const points = { time: [], value: [], low: columns.min ? [] : null, high: columns.max ? [] : null };
    columns.time.forEach((time, i) => {
      if (columns.count[i] === 0) return; // only flagged readings, which are drawn as crosses
      points.time.push(time);
      points.value.push(columns[wanted[0]][i]);
      points.low?.push(columns.min[i]);
      points.high?.push(columns.max[i]);
    });
    const crosses = { time: [], value: [], text: [] };
    flagged.time.forEach((time, i) => this.cross(crosses, time, flagged.value[i], flagged.flags[i]));
    Object.assign(this.shown, { points, crosses });
  }

  place(points, crosses, time, value, flags) {
    if (isBad(flags)) this.cross(crosses, time, value, flags);
    else {
      points.time.push(time);
      points.value.push(value);
      points.low?.push(null);
      points.high?.push(null);
    }
  }

  cross(crosses, time, value, flags) {
    crosses.time.push(time);
    crosses.value.push(value);
    crosses.text.push(flags.map((flag) => t(`flag.${flag}`)).join(", "));
  }

  /** Add a reading from the stream. Sums and increases are updated by the next request instead. */
  append(time, value, flags) {
    const shown = this.shown;
    if (this.waiting) {
      this.waiting.push([time, value, flags]);
      return;
    }
    if (!shown || time <= shown.until || (shown.width && ["amount", "counter"].includes(shown.sensor.kind))) return;
    shown.until = time;
    this.place(shown.points, shown.crosses, time, value, flags);
    this.dirty = true;
  }

  async refresh() {
    if (!this.dirty || !this.shown) return;
    this.dirty = false;
    await this.draw(await library());
  }

  /** Gaps [from, to] between readings, in ms; a gap that has not ended reaches to now. */
  gaps() {
    const { points, crosses, sensor, width, start, since } = this.shown;
    const from = Math.max(start, since);
    const allowed = Math.max(SILENCE * sensor.interval_s * 1000, 2 * width);
    const times = [...points.time, ...crosses.time].sort((a, b) => a - b);
    const found = [];
    let before = times.length ? Math.min(times[0], from) : from;
    for (const time of [...times, this.store.now()]) {
      if (time - before > allowed) found.push([before === from ? from : before + width, time]);
      before = time;
    }
    return found;
  }

  /** Indexes of good points, in pieces between gaps. */
  pieces(gaps) {
    const found = [[]];
    let next = 0;
    this.shown.points.time.forEach((time, i) => {
      let parted = false;
      for (; next < gaps.length && gaps[next][0] <= time; next++) parted = true;
      if (parted && found.at(-1).length) found.push([]);
      found.at(-1).push(i);
    });
    return found;
  }

  /** The range of the value axis: good values with a margin; null: there are none. */
  scale(bars) {
    const { points } = this.shown;
    const values = [...points.value, ...(points.low ?? []), ...(points.high ?? [])].filter((value) => value !== null);
    if (!values.length) return null;
    const [low, high] = [least(values), most(values)];
    const room = 0.12 * (high - low) || 0.05 * Math.abs(high) || 1;
    return [bars ? Math.min(0, low) : low - room, high + room];
  }

  async draw(Plotly) {
    const { points, crosses, sensor, width, start, length, wanted, range } = this.shown;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const gaps = this.gaps();
    const unit = symbol(sensor.unit);
    const bars = width > 0 && ["amount", "counter"].includes(sensor.kind);
    const pieces = this.pieces(gaps);
    const x = pieces.flatMap((piece) => [...piece.map((i) => wall(points.time[i])), null]);
    const y = pieces.flatMap((piece) => [...piece.map((i) => points.value[i]), null]);
    const accent = colour("accent");
    const clock = `%{x|${length > DAY ? "%d/%m %H:%M" : "%H:%M:%S"}}`;
    const number = `%{y:,.4~g}${unit ? ` ${unit.replaceAll("<", "&lt;")}` : ""}`;
    const traces = [];
    if (points.low) {
      // The outline of an area for each piece: along the maxima and back along the minima.
      const around = (there, back) => pieces.flatMap((piece) => [...piece.map(there), ...[...piece].reverse().map(back), null]);
      const at = (i) => wall(points.time[i]);
      const edge = (values) => (i) => values[i] ?? points.value[i];
      traces.push({
        x: around(at, at), y: around(edge(points.high), edge(points.low)), mode: "lines", fill: "toself", fillcolor: `${accent}33`,
        line: { width: 0, color: accent }, hoverinfo: "skip",
      });
    }
    traces.push({
      x, y, name: t(`aggregate.${width ? wanted[0] : "value"}`), hovertemplate: `${clock}<br><b>${number}</b><extra></extra>`,
      ...(bars
        ? { type: "bar", marker: { color: accent }, width: 0.9 * width }
        : { mode: sensor.kind === "direction" ? "markers" : x.length < 80 ? "lines+markers" : "lines", line: { color: accent, width: 1.8 }, marker: { color: accent, size: 4 }, connectgaps: false }),
    });
    // Values far from all good ones are drawn at the edge, or the others would be squeezed flat; the tooltip has the value.
    const scale = this.scale(bars);
    const inside = (value) => (scale ? Math.min(scale[1], Math.max(scale[0], value)) : value);
    traces.push({
      x: crosses.time.map(wall), y: crosses.value.map(inside), name: t("chart.flagged"), mode: "markers", cliponaxis: false,
      text: crosses.value.map((value, i) => `<b>${amount(value, sensor.unit).replaceAll("<", "&lt;")}</b><br>${crosses.text[i]}`),
      marker: {
        symbol: crosses.value.map((value) => (inside(value) === value ? "x-thin" : value > scale[1] ? "triangle-up" : "triangle-down")),
        size: 9, color: colour("limit"), line: { width: 2.2, color: colour("limit") },
      },
      hovertemplate: `${clock}<br>%{text}<extra></extra>`,
    });
    const shapes = gaps.slice(-MOST_GAPS).map(([from, to]) => ({
      type: "rect", xref: "x", yref: "paper", x0: wall(from), x1: wall(to), y0: 0, y1: 1, layer: "below", line: { width: 0 }, fillcolor: colour("gap"),
    }));
    for (const [name, dash] of [["low", "solid"], ["suspect_low", "dot"], ["suspect_high", "dot"], ["high", "solid"]]) {
      const bound = sensor[name];
      if (bound !== null && scale && bound >= scale[0] && bound <= scale[1]) {
        shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: bound, y1: bound, line: { color: colour("limit"), width: 1, dash } });
      }
    }
    const now = this.store.now();
    const axis = { gridcolor: colour("line"), linecolor: colour("line"), zeroline: false, fixedrange: true, automargin: true };
    const layout = {
      margin: { l: 46, r: 10, t: 8, b: 34 }, height: 250, showlegend: false, hovermode: "closest", dragmode: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: colour("ink") },
      xaxis: { ...axis, type: "date", range: [wall(Math.max(start, now - length)), wall(now + 0.01 * length)] },
      yaxis: { ...axis, ...(scale ? { range: scale } : {}), ticksuffix: unit === "°" ? unit : "", title: { text: unit.replaceAll("<", "&lt;"), standoff: 6 } },
      shapes,
    };
    await Plotly.react(this.element, traces, layout, { displayModeBar: false, responsive: true, locale: language });
    const good = points.value.filter((value) => value !== null);
    this.summary = [
      good.length ? t("chart.span", { low: amount(least(points.low ?? good), sensor.unit), high: amount(most(points.high ?? good), sensor.unit) }) : t("chart.empty"),
      t("chart.flags", { n: count(crosses.time.length) }),
      gaps.length ? t("chart.gaps", { n: count(gaps.length), length: duration(gaps.reduce((sum, [from, to]) => sum + to - from, 0)) }) : t("chart.nogaps"),
    ].join(" · ");
    this.element.setAttribute("role", "img");
    this.element.setAttribute("aria-label", `${t(`range.${range}`)}: ${this.summary}`);
    this.element.dataset.points = points.time.length;
    this.element.dataset.gaps = gaps.length;
    this.element.dataset.flagged = crosses.time.length;
    this.element.dataset.until = good.length ? moment(points.time.at(-1)) : "";
    this.onDrawn?.();
  }

  close() {
    this.turn = null;
    this.waiting = null;
    this.shown = null;
    window.Plotly?.purge(this.element);
  }
}
