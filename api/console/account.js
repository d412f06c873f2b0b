// The ledger of today, and the health of the service.

import { get, pages } from "./api.js";
import { $, h, say } from "./dom.js";
import { count, duration, midnight } from "./format.js";
import { GLYPHS, SEVERITY } from "./store.js";
import { t } from "./texts.js";

//: ms between requests. Totals are one small query; the table by source is a row for each minute and source.
const TOTALS_EVERY = 10_000;
const SOURCES_EVERY = 30_000;
const READY_EVERY = 10_000;
const OUTCOMES = ["stored", "duplicate", "conflict", "missing", "quarantined"];
const COLUMNS = ["received", ...OUTCOMES];

const balanced = (row) => row.received === OUTCOMES.reduce((sum, name) => sum + row[name], 0);

export class Ledger {
  constructor(store) {
    this.store = store;
    this.root = $("ledger");
    this.totals = null;
    this.sources = null;
    setInterval(() => this.look(), TOTALS_EVERY);
    setInterval(() => this.visible() && this.lookSources(), SOURCES_EVERY);
  }

  visible() {
    return !this.root.hidden && !document.hidden;
  }

  from() {
    return new Date(midnight(this.store.now())).toISOString();
  }

  async look() {
    if (document.hidden) return;
    try {
      this.totals = (await get("/v1/ledger", { from: this.from(), limit: 1 })).totals;
      this.failed = null;
    } catch (error) {
      this.failed = error.message;
    }
    this.draw();
  }

  async lookSources() {
    const sums = new Map();
    try {
      for await (const { columns } of pages("/v1/ledger", { from: this.from() })) {
        columns.source.forEach((source, i) => {
          if (!sums.has(source)) sums.set(source, Object.fromEntries(COLUMNS.map((name) => [name, 0])));
          const row = sums.get(source);
          for (const name of COLUMNS) row[name] += columns[name][i];
        });
      }
      this.sources = [...sums].sort(([a], [b]) => a.localeCompare(b));
    } catch (error) {
      this.failed = error.message;
    }
    this.draw();
  }

  open() {
    return Promise.all([this.look(), this.lookSources()]);
  }

  draw() {
    const totals = this.totals;
    const fine = totals && balanced(totals);
    say($("ledger-mark"), totals ? (fine ? "✓" : "≠") : "");
    $("ledger-mark").className = totals ? (fine ? "fine" : "some") : "";
    $("ledger-mark").title = totals ? t(fine ? "ledger.balanced" : "ledger.unbalanced") : "";
    if (this.root.hidden) return;
    const cell = (name, row) => h("td", { class: row[name] && !["received", "stored"].includes(name) ? "some" : null }, count(row[name]));
    const line = (name, row) =>
      h("tr", {}, h("th", { scope: "row" }, name), ...COLUMNS.map((column) => cell(column, row)), h("td", { class: balanced(row) ? "fine" : "wrong" }, balanced(row) ? "✓" : "≠"));
    const head = h("tr", {}, h("th", { scope: "col" }, t("ledger.source")), ...COLUMNS.map((name) => h("th", { scope: "col" }, t(`ledger.${name}`))), h("th", { scope: "col" }, "="));
    this.root.replaceChildren(
      h("p", { class: `verdict ${fine ? "fine" : "wrong"}` }, totals ? t(fine ? "ledger.balanced" : "ledger.unbalanced") : this.failed ? t("failed", { detail: this.failed }) : t("loading")),
      h("p", { class: "note" }, t("ledger.why")),
      totals
        ? h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": t("ledger") },
            h("table", {}, h("thead", {}, head), h("tbody", {}, line(t("ledger.all"), totals), ...(this.sources ?? []).map(([name, row]) => line(name, row)))))
        : null ?? "",
    );
  }
}

export class Health {
  constructor(store, filter, pickState) {
    this.store = store;
    this.filter = filter;
    this.live = null;
    this.ready = null;
    this.event = null; // time of the last event of the stream, ms
    const item = (name) => {
      const value = h("dd", {});
      const label = h("dt", {});
      $("health").append(h("div", { id: `health-${name}` }, label, value));
      return { label, value };
    };
    this.items = { service: item("service"), stream: item("stream"), lag: item("lag") };
    this.states = Object.fromEntries(
      SEVERITY.map((state) => {
        const button = h("button", { type: "button", class: `count ${state}`, dataset: { state }, onclick: () => pickState(state) });
        return [state, button];
      }),
    );
    $("health").append(h("div", { class: "states" }, (this.items.sensors = { label: h("dt", {}), value: null }).label, h("dd", {}, ...Object.values(this.states))));
    setInterval(() => this.look(), READY_EVERY);
    setInterval(() => this.draw(), 1_000);
  }

  async look() {
    if (document.hidden) return;
    try {
      const answer = await fetch("/readyz");
      this.ready = answer.ok ? "ready" : "unready";
    } catch {
      this.ready = "away";
    }
    this.draw();
  }

  heard() {
    this.event = Date.now();
  }

  connected(live) {
    this.live = live;
    this.draw();
  }

  draw() {
    const { service, stream, lag, sensors } = this.items;
    say(service.label, t("health.service"));
    say(service.value, this.ready ? t(`health.${this.ready}`) : "…");
    service.value.className = this.ready === "ready" ? "fine" : this.ready ? "wrong" : "";
    say(stream.label, t("health.stream"));
    const age = this.event === null ? "" : ` · ${t("ago", { time: duration(Math.floor((Date.now() - this.event) / 1000) * 1000) })}`;
    say(stream.value, this.live === null ? "…" : this.live ? t("health.live") + age : t("health.broken"));
    stream.value.className = this.live ? "fine" : this.live === false ? "wrong" : "";
    say(lag.label, t("health.lag"));
    say(lag.value, this.store.lag === null ? "–" : duration(this.store.lag));
    say(sensors.label, t("health.sensors"));
    for (const [state, button] of Object.entries(this.states)) {
      const n = this.store.counts[state];
      say(button, `${GLYPHS[state]} ${count(n)}`);
      const label = `${t(`state.${state}`)}: ${count(n)}`;
      if (button.title !== label) {
        button.title = label;
        button.setAttribute("aria-label", label);
      }
      button.hidden = n === 0 && state !== "ok" && this.filter.state !== state;
      button.setAttribute("aria-pressed", String(this.filter.state === state));
    }
  }
}
