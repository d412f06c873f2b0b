// One device: its registration, its sensors with their newest values, and the chart of one of them.

import { get } from "./api.js";
import { Chart, RANGES } from "./chart.js";
import { $, h, say, throttled } from "./dom.js";
import { amount, duration, metricName, moment } from "./format.js";
import { badge } from "./lists.js";
import { shape } from "./map.js";
import { t } from "./texts.js";

//: ms between two drawings of the chart while readings arrive.
const REDRAW = 1_000;
//: ms after which live readings of the chart are replaced by the server's aggregates of them.
const ANEW = 300_000;
//: ms; a device that was registered more recently has too few readings for a chart of a day.
const YOUNG = 7_200_000;

export class Panel {
  constructor(store, { closed, chosen }) {
    this.store = store;
    this.closed = closed;
    this.chosen = chosen;
    this.root = $("panel");
    this.range = null; // until a person chooses one: a day, or an hour for a new device
    this.device = null;
    this.redraw = throttled(() => this.chart?.refresh(), REDRAW);
    this.root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  /** Open a device at one of its metrics; at the one in the worst state, unless one is named. */
  async open(id, metric, { focus = true } = {}) {
    const device = this.store.devices.get(id);
    if (!device || device.sensors.size === 0) return;
    if (!this.device) this.back = document.activeElement;
    this.device = device;
    this.metric = device.sensors.has(metric) ? metric : this.worst(device);
    this.details = null;
    this.range ??= this.store.now() - Date.parse(device.created_at) < YOUNG ? "1h" : "24h";
    this.build(device);
    this.root.hidden = false;
    document.body.classList.add("opened");
    this.chosen(id);
    if (focus) this.title.focus();
    try {
      const details = await get(`/v1/devices/${encodeURIComponent(id)}`);
      if (this.device?.id !== id) return;
      this.details = new Map(details.sensors.map((sensor) => [sensor.metric, sensor]));
      await this.drawChart();
    } catch (error) {
      this.fail(error);
    }
  }

  worst(device) {
    const sensors = [...device.sensors.values()];
    return (sensors.find((sensor) => sensor.shown !== "ok") ?? sensors[0]).metric;
  }

  build(device) {
    this.chart?.close();
    clearInterval(this.timer);
    this.title = h("h2", { tabIndex: -1 }, shape(device.domain), " ", device.name);
    const facts = [
      [t("panel.id"), device.id], [t("domain"), t(`domain.${device.domain}`)], [t("district"), device.district],
      [t("panel.source"), device.source], ...Object.entries(device.tags),
    ];
    this.rows = new Map();
    const sensors = h("div", { class: "sensors", role: "radiogroup", "aria-label": t("panel.sensors") });
    for (const sensor of device.sensors.values()) {
      const row = {
        badge: h("span", {}), value: h("span", { class: "value" }), age: h("span", { class: "age" }),
      };
      row.button = h(
        "button",
        { type: "button", role: "radio", class: "sensor", dataset: { metric: sensor.metric }, onclick: () => this.pick(sensor.metric) },
        h("span", { class: "metric", title: metricName(sensor.metric) }, metricName(sensor.metric)), row.value, row.badge, row.age,
      );
      this.rows.set(sensor.metric, row);
      sensors.append(row.button);
    }
    sensors.addEventListener("keydown", (event) => this.arrow(event));
    this.ranges = h(
      "div", { class: "ranges", role: "group", "aria-label": t("panel.range") },
      ...Object.keys(RANGES).map((name) => h("button", { type: "button", dataset: { range: name }, onclick: () => this.span(name) }, t(`range.${name}`))),
    );
    this.plot = h("div", { class: "chart", id: "chart" });
    this.note = h("p", { class: "note", role: "status" });
    this.limits = h("p", { class: "note" });
    this.root.replaceChildren(
      h("div", { class: "head" }, this.title, h("button", { type: "button", class: "close", "aria-label": t("close"), onclick: () => this.close() }, "×")),
      h("dl", { class: "facts" }, ...facts.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      sensors, this.ranges, this.plot, this.note, this.limits,
    );
    this.chart = new Chart(this.plot, this.store);
    this.chart.onDrawn = () => say(this.note, this.chart.summary);
    this.timer = setInterval(() => this.drawChart(), ANEW);
    this.draw();
  }

  /** Draw the newest values; called when the device changes, and every second. */
  draw() {
    if (!this.device) return;
    const device = this.store.devices.get(this.device.id);
    if (!device) return this.close();
    this.device = device;
    const now = this.store.now();
    for (const [metric, row] of this.rows) {
      const sensor = device.sensors.get(metric);
      if (!sensor) continue;
      say(row.value, amount(sensor.value, sensor.unit));
      say(row.age, sensor.time === null ? t("value.none") : t("ago", { time: duration(Math.floor((now - sensor.time) / 1000) * 1000) }));
      row.age.title = sensor.time === null ? "" : moment(sensor.time);
      if (row.state !== sensor.shown) {
        row.state = sensor.shown;
        const made = badge(sensor.shown);
        row.badge.replaceWith(made);
        row.badge = made;
      }
      row.button.setAttribute("aria-checked", String(metric === this.metric));
      row.button.tabIndex = metric === this.metric ? 0 : -1;
    }
    for (const button of this.ranges.children) button.setAttribute("aria-pressed", String(button.dataset.range === this.range));
  }

  /** A reading from the stream. */
  heard(device, metric, time, value, flags) {
    if (this.device?.id !== device || this.metric !== metric) return;
    this.chart.append(time, value, flags);
    this.redraw();
  }

  pick(metric) {
    this.metric = metric;
    this.draw();
    return this.drawChart();
  }

  arrow(event) {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const metrics = [...this.rows.keys()];
    const next = metrics[(metrics.indexOf(this.metric) + step + metrics.length) % metrics.length];
    this.pick(next);
    this.rows.get(next).button.focus();
  }

  span(range) {
    this.range = range;
    this.draw();
    return this.drawChart();
  }

  async drawChart() {
    const sensor = this.details?.get(this.metric);
    if (!sensor || !this.device) return;
    say(this.limits, this.bounds(sensor));
    this.plot.setAttribute("aria-busy", "true");
    try {
      await this.chart.open(this.device.id, sensor, this.range);
    } catch (error) {
      this.fail(error);
    }
    this.plot.setAttribute("aria-busy", "false");
  }

  bounds(sensor) {
    const range = (low, high) => {
      if (low === null && high === null) return null;
      if (low === null) return t("bounds.most", { high: amount(high, sensor.unit) });
      if (high === null) return t("bounds.least", { low: amount(low, sensor.unit) });
      return t("bounds.between", { low: amount(low, sensor.unit), high: amount(high, sensor.unit) });
    };
    const said = [];
    const plausible = range(sensor.low, sensor.high);
    const usual = range(sensor.suspect_low, sensor.suspect_high);
    if (plausible) said.push(t("bounds.plausible", { range: plausible }));
    if (usual) said.push(t("bounds.usual", { range: usual }));
    said.push(t("bounds.interval", { time: duration(sensor.interval_s * 1000) }));
    return said.join(" · ");
  }

  fail(error) {
    say(this.note, t("failed", { detail: error.message }));
  }

  redress() {
    if (this.device) this.open(this.device.id, this.metric, { focus: false });
  }

  close() {
    if (!this.device) return;
    this.chart.close();
    clearInterval(this.timer);
    this.device = null;
    this.root.hidden = true;
    this.root.replaceChildren();
    document.body.classList.remove("opened");
    this.chosen(null);
    this.back?.focus?.();
    this.closed();
  }
}
