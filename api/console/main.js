// The console: the present state (/v1/devices, /v1/states, /v1/latest), then events (/v1/stream), drawn a few times a second.

import { Refused, askKey, findKey, get, pages } from "./api.js";
import { Health, Ledger } from "./account.js";
import { $, h, say, throttled } from "./dom.js";
import { metricName, useCatalogue, useZone, zone } from "./format.js";
import { DeviceList, WrongList } from "./lists.js";
import { CityMap, shape } from "./map.js";
import { Panel } from "./panel.js";
import { Filter, GLYPHS, SEVERITY, Store } from "./store.js";
import { follow } from "./stream.js";
import { dress, language, load, remember, t } from "./texts.js";

//: ms between two drawings, at any rate of events: four a second look live and cost little of the machine.
const DRAW = 250;
//: ms between drawings of lists, which are for reading.
const LISTS = 500;
//: ms after which unknown devices that the stream has named are requested.
const UNKNOWN = 1_000;

//: ms between attempts to load the present state.
const RETRY = { first: 1_000, most: 15_000 };
//: ms between updates of what changes with time alone.
const AGE = 10_000;
//: ms between requests of the registry, for devices that moved or were retired; new ones are found when they report.
const REGISTRY = 300_000;

const DOMAINS = ["traffic", "environment", "energy"];
const store = new Store();
const filter = new Filter();
let catalogue = [];
let map, wrong, devices, panel, ledger, health, running;

async function begin() {
  const [settings] = await Promise.all([fetch("/console/settings.json").then((answer) => answer.json()), load()]);
  useZone(settings.zone);
  findKey();
  dress();
  map = new CityMap($("map"), { tiles: settings.tiles, credit: settings.credit, choose: (id) => open(id) });
  wrong = new WrongList(store, filter, open);
  devices = new DeviceList(store, filter, open);
  ledger = new Ledger(store);
  health = new Health(store, filter, pickState);
  panel = new Panel(store, { closed: () => map.map.invalidateSize(), chosen: (id) => map.select(id) });
  controls(settings);
  legend();
  health.look();
  await start();
  document.body.dataset.ready = "yes";
  ledger.look();
}

/** Load the present state, then follow the stream; from then on `store` is up to date. Repeated until it succeeds. */
async function start() {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  let cursor = null;
  for (let wait = RETRY.first; cursor === null; wait = Math.min(2 * wait, RETRY.most)) {
    try {
      cursor = await present();
    } catch (error) {
      if (!(error instanceof Refused) && !(error instanceof TypeError)) throw error; // a bug of the page, not an error of the network or the API
      health.connected(false);
      complain(error.message);
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
    if (signal.aborted) return; // another call has started again
  }
  complain(null);
  store.takeChanges();
  choices();
  everything();
  follow(cursor, { take, status: (live) => health.connected(live), heard: () => health.heard(), signal });
}

/** Load the present state; returns the cursor from which the stream continues. */
async function present() {
  let cursor = null;
  catalogue = (await get("/v1/catalogue")).metrics;
  useCatalogue(catalogue);
  store.metrics = new Map(catalogue.map((metric) => [metric.name, metric]));
  await register();
  // The order matters: the stream continues after the first of these answers, and repeats what the later ones contain.
  for await (const { at, columns, stream_cursor } of pages("/v1/states")) {
    cursor ??= stream_cursor;
    store.skew = Date.parse(at) - Date.now();
    columns.device.forEach((device, i) => store.addState(device, columns.metric[i], columns.state[i], columns.since[i]));
  }
  for await (const { columns } of pages("/v1/latest")) store.addReadings(columns, false);
  return cursor;
}

/** Show why the page has no data; null: hide the message. */
function complain(detail) {
  say($("trouble"), detail === null ? "" : t("failed", { detail }));
  $("trouble").hidden = detail === null;
}

/** Load the registry: devices move, get sensors, and are retired. */
async function register() {
  const listed = [];
  for await (const page of pages("/v1/devices")) listed.push(...page.devices);
  store.addDevices(listed);
  const kept = new Set(listed.map((device) => device.id));
  for (const id of [...store.devices.keys()]) if (!kept.has(id)) store.removeDevice(id);
}

function take(name, data) {
  if (name === "readings") {
    store.addReadings(data, true);
    const { device, metric, time, value, flags } = data;
    if (panel.device) device.forEach((id, i) => panel.heard(id, metric[i], time[i], value[i], flags[i]));
  } else if (name === "state") store.addState(data.device, data.metric, data.state, data.since);
  else if (name === "reset") start();
  else if (name === "end") console.info(`stream ended: ${data.reason}`);
  if (store.unknown.size) learn();
  draw();
}

const learn = throttled(async () => {
  const wanted = [...store.unknown];
  try {
    for (let i = 0; i < wanted.length; i += 100) {
      const some = { device: wanted.slice(i, i + 100) };
      for await (const page of pages("/v1/devices", some)) store.addDevices(page.devices);
      for await (const { columns } of pages("/v1/states", some)) {
        columns.device.forEach((device, k) => store.addState(device, columns.metric[k], columns.state[k], columns.since[k]));
      }
      for await (const { columns } of pages("/v1/latest", some)) store.addReadings(columns, false);
    }
  } catch (error) {
    console.info(error.message); // devices that are still unknown are requested when they report again
  }
  store.unknown.clear();
  draw();
}, UNKNOWN);

let seen = new Set(); // devices that changed since lists were drawn
const draw = throttled(() => {
  const { changed, moved } = store.takeChanges();
  if (moved) {
    choices();
    everything();
  }
  for (const id of changed) {
    const device = store.devices.get(id);
    if (!device) continue;
    map.paint(id, filter.stateOf(device), device.heard !== null);
    seen.add(id);
  }
  if (panel.device && changed.has(panel.device.id)) panel.draw();
  if (changed.size) lists();
}, DRAW);

const lists = throttled(() => {
  if (!$("sensors").hidden) for (const id of seen) devices.draw(id);
  if (!$("sensors").hidden) seen = new Set();
  wrong.draw();
  health.draw();
}, LISTS);

/** Draw everything, after devices came or went, or a filter, the language or the theme changed. */
function everything() {
  const all = [...store.devices.values()];
  const shown = all.filter((device) => filter.device(device));
  map.outline(all);
  map.fit();
  const nowhere = map.place(shown, (device) => filter.stateOf(device));
  for (const device of shown) map.paint(device.id, filter.stateOf(device), false);
  say($("nowhere"), nowhere ? t("map.nowhere", { n: nowhere }) : "");
  $("nowhere").hidden = nowhere === 0;
  $("map").dataset.devices = shown.length - nowhere;
  map.select(panel.device?.id ?? null);
  devices.arrange();
  wrong.draw();
  health.draw();
}

function open(id, metric) {
  panel.open(id, metric);
  map.show(id);
}

function pickState(state) {
  filter.state = filter.state === state ? "" : state;
  if (filter.state === "ok") showTab("sensors");
  everything();
}

function controls(settings) {
  $("domains").append(
    ...DOMAINS.map((domain) => {
      const box = h("input", { type: "checkbox", checked: true, value: domain, onchange: () => {
        if (box.checked) filter.domains.add(domain);
        else filter.domains.delete(domain);
        everything();
      } });
      return h("label", { class: "domain" }, box, shape(domain), h("span", { dataset: { text: `domain.${domain}` } }, t(`domain.${domain}`)));
    }),
  );
  $("district").addEventListener("change", (event) => {
    filter.district = event.target.value;
    everything();
  });
  $("metric").addEventListener("change", (event) => {
    filter.metric = event.target.value;
    everything();
  });
  $("find").addEventListener("input", throttled(() => {
    filter.words = $("find").value.trim().toLocaleLowerCase();
    everything();
  }, 150));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const tab of $("tabs").children) tab.addEventListener("click", () => showTab(tab.getAttribute("aria-controls")));
  $("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const tabs = [...$("tabs").children];
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    showTab(next.getAttribute("aria-controls"));
    next.focus();
  });
  showTab("wrong");
  $("theme").value = localStorage.getItem("citybeat.theme") ?? "system";
  $("theme").addEventListener("change", (event) => window.setTheme(event.target.value));
  document.addEventListener("citybeat:theme", () => {
    map.dress();
    panel.redress();
  });
  $("language").value = language;
  $("language").addEventListener("change", (event) => {
    remember(event.target.value);
    dress();
    map.dress();
    legend();
    choices();
    everything();
    panel.redress();
    ledger.draw();
    clocks(settings);
  });
  $("key-button").addEventListener("click", async () => {
    if (await askKey()) location.reload();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    draw();
    health.look();
    ledger.look();
  });
  setInterval(() => {
    if (document.hidden) return;
    map.settle();
  }, DRAW);
  setInterval(() => {
    if (document.hidden) return;
    panel.draw();
    panel.redraw();
  }, 1_000);
  setInterval(() => {
    store.age();
    draw();
    lists(); // durations have grown
  }, AGE);
  setInterval(() => document.hidden || register().then(draw, (error) => console.info(error.message)), REGISTRY);
  clocks(settings);
}

function clocks(settings) {
  say($("zone"), t("zone", { zone }));
  say($("version"), `citybeat ${settings.version}`);
}

function showTab(name) {
  for (const tab of $("tabs").children) {
    const chosen = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (name === "ledger") ledger.open();
  if (name === "sensors") devices.arrange();
}

function choices() {
  const districts = [...new Set([...store.devices.values()].map((device) => device.district))].filter(Boolean).sort((a, b) => a.localeCompare(b, language));
  const used = new Set([...store.devices.values()].flatMap((device) => [...device.sensors.keys()]));
  const key = JSON.stringify([districts, [...used].sort(), language]);
  if (key === choices.key) return; // an unchanged list is not rebuilt, since somebody may have opened it
  choices.key = key;
  const option = (value, text) => h("option", { value }, text);
  $("district").replaceChildren(option("", t("all")), ...districts.map((name) => option(name, name)));
  $("metric").replaceChildren(
    option("", t("all")),
    ...DOMAINS.map((domain) =>
      h("optgroup", { label: t(`domain.${domain}`) }, ...catalogue.filter((metric) => metric.domain === domain && used.has(metric.name)).map((metric) => option(metric.name, metricName(metric.name))))),
  );
  $("district").value = filter.district;
  $("metric").value = filter.metric;
}

function legend() {
  $("legend").replaceChildren(
    h("ul", {}, ...DOMAINS.map((domain) => h("li", {}, shape(domain), " ", t(`domain.${domain}`)))),
    h("ul", {}, ...SEVERITY.map((state) => h("li", { title: t(`meaning.${state}`) }, h("span", { class: `dot ${state}`, "aria-hidden": "true" }, GLYPHS[state]), " ", t(`state.${state}`)))),
  );
}

begin().catch((error) => {
  console.error(error);
  complain(error.message);
});
