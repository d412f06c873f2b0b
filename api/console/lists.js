// Two lists: sensors that need attention, the worst and longest first; and every device, as an alternative to the map.

import { $, arrange, h, say, throttled } from "./dom.js";
import { amount, count, metricName, roughly } from "./format.js";
import { shape } from "./map.js";
import { GLYPHS, isWrong, rank } from "./store.js";
import { t } from "./texts.js";

//: Most rows that are drawn; nobody reads more, and filters find them.
const MOST = 300;
//: ms between two announcements to screen readers.
const SPOKEN = 10_000;

export function badge(state) {
  return h("span", { class: `badge ${state}` }, h("span", { "aria-hidden": "true" }, GLYPHS[state]), " ", t(`state.${state}`));
}

class Row {
  constructor(open, icon = null) {
    this.badge = h("span", { class: "badge" });
    this.name = h("span", {});
    this.detail = h("span", { class: "detail" });
    this.side = h("span", { class: "aside" });
    this.button = h("button", { type: "button", class: "entry", onclick: open }, h("span", { class: "name" }, icon, this.name), this.side, this.badge, this.detail);
    this.element = h("li", {}, this.button);
    this.state = null;
  }

  mark(state) {
    const key = `${state} ${t(`state.${state}`)}`;
    if (this.state === key) return;
    this.state = key;
    const made = badge(state);
    this.badge.replaceWith(made);
    this.badge = made;
  }
}

export class WrongList {
  constructor(store, filter, choose) {
    this.store = store;
    this.filter = filter;
    this.choose = choose;
    this.rows = new Map();
    this.list = h("ul", { class: "entries" });
    this.none = h("p", { class: "none" });
    this.more = h("p", { class: "none" });
    $("wrong").append(this.none, this.list, this.more);
    this.spoken = -1;
    this.speak = throttled(() => {
      if (this.total === this.spoken) return;
      this.spoken = this.total;
      say($("spoken"), this.total ? t("wrong.spoken", { n: count(this.total), first: this.first }) : t("wrong.none"));
    }, SPOKEN);
  }

  draw() {
    const found = [];
    for (const device of this.store.devices.values()) {
      if (!this.filter.device(device)) continue;
      for (const sensor of this.filter.sensors(device)) if (isWrong(sensor.shown)) found.push([device, sensor]);
    }
    found.sort(([d, a], [e, b]) => rank(a.shown) - rank(b.shown) || a.since - b.since || d.name.localeCompare(e.name));
    const rows = new Map();
    const now = this.store.now();
    for (const [device, sensor] of found.slice(0, MOST)) {
      const key = `${device.id}/${sensor.metric}`;
      const row = this.rows.get(key) ?? new Row(() => this.choose(device.id, sensor.metric), shape(device.domain));
      row.button.dataset.sensor = key;
      row.mark(sensor.shown);
      say(row.name, device.name);
      say(row.side, roughly(now - sensor.since));
      const value = sensor.value === null ? t("value.none") : amount(sensor.value, sensor.unit);
      say(row.detail, `${metricName(sensor.metric)} · ${t(`why.${sensor.shown}`, { value })}`);
      rows.set(key, row);
    }
    this.rows = rows;
    arrange(this.list, [...rows.values()].map((row) => row.element));
    this.total = found.length;
    this.first = found.length ? `${found[0][0].name}, ${metricName(found[0][1].metric)}, ${t(`state.${found[0][1].shown}`)}` : "";
    say($("wrong-count"), count(found.length));
    $("wrong-count").className = found.length ? "some" : "";
    say(this.none, found.length ? "" : t("wrong.none"));
    say(this.more, found.length > MOST ? t("wrong.more", { n: count(found.length - MOST) }) : "");
    this.speak();
  }
}

export class DeviceList {
  constructor(store, filter, choose) {
    this.store = store;
    this.filter = filter;
    this.choose = choose;
    this.rows = new Map();
    this.list = h("ul", { class: "entries" });
    this.none = h("p", { class: "none" });
    $("sensors").append(this.none, this.list);
  }

  /** Rebuild the rows, after devices came or went, or a filter changed. */
  arrange() {
    const shown = [...this.store.devices.values()].filter((device) => this.filter.device(device));
    const order = new Intl.Collator(document.documentElement.lang, { numeric: true });
    shown.sort((a, b) => order.compare(a.name, b.name));
    const rows = new Map();
    let sensors = 0;
    for (const device of shown) {
      let row = this.rows.get(device.id);
      if (!row) {
        row = new Row(() => this.choose(device.id), shape(device.domain));
        row.button.dataset.device = device.id;
      }
      say(row.name, device.name);
      rows.set(device.id, row);
      sensors += this.filter.sensors(device).length;
    }
    this.rows = rows;
    arrange(this.list, [...rows.values()].map((row) => row.element));
    say($("sensors-count"), count(sensors));
    say(this.none, shown.length ? "" : t("sensors.none"));
    for (const id of rows.keys()) this.draw(id);
  }

  draw(id) {
    const row = this.rows.get(id);
    const device = this.store.devices.get(id);
    if (!row || !device) return;
    row.mark(this.filter.stateOf(device));
    const sensors = this.filter.sensors(device);
    const said = sensors.slice(0, 2).map((sensor) => `${metricName(sensor.metric)} ${amount(sensor.value, sensor.unit)}`);
    if (sensors.length > 2) said.push(`+${sensors.length - 2}`);
    say(row.side, device.district);
    say(row.detail, said.join(" · "));
  }
}
