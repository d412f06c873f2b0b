// The page's copy of the city's state. Pure but for the clock: it draws nothing and sends no requests.
//
// The state of a sensor that is shown comes from the server's states (overdue, silent) and from the flags of its newest reading, which
// the stream delivers sooner.

/** States, the worst first. `limit`: outside the plausible range; `unusual`: outside the usual range; `bad`: a step, or declared bad;
 * `waiting`: never reported, and its first reading is not due yet. */
export const SEVERITY = ["limit", "bad", "stuck", "overdue", "silent", "unusual", "ok", "waiting"];
export const STATES = [...SEVERITY].reverse();
const RANK = Object.fromEntries(SEVERITY.map((state, rank) => [state, rank]));
/** Letters in addition to colours, for people who do not distinguish those. */
export const GLYPHS = { limit: "↕", bad: "×", stuck: "=", overdue: "!", silent: "?", unusual: "~", waiting: "…", ok: "✓" };
//: Expected intervals without a reading after which a sensor is overdue, as on the server.
export const SILENCE = 3;

export const worse = (a, b) => (RANK[a] <= RANK[b] ? a : b);
export const rank = (state) => RANK[state];
export const isWrong = (state) => state !== "ok" && state !== "waiting";

/** The state of a reading by its flags. */
export function judged(flags) {
  if (flags.includes("manual_good")) return "ok";
  if (flags.includes("manual_bad")) return "bad";
  if (flags.includes("range")) return "limit";
  if (flags.includes("stuck")) return "stuck";
  if (flags.includes("step")) return "bad";
  return flags.includes("suspect") ? "unusual" : "ok";
}

/** Whether flags keep a reading out of aggregates. */
export const isBad = (flags) => ["limit", "bad", "stuck"].includes(judged(flags));

export class Store {
  constructor() {
    this.devices = new Map();
    this.changed = new Set(); // devices that changed since the last `takeChanges`
    this.moved = false; // whether devices came or went
    this.metrics = new Map(); // the catalogue, by name
    this.unknown = new Set(); // devices that the stream named and the page does not know
    this.skew = 0; // ms that the server's clock is ahead of the browser's
    this.lag = null; // moving average of the ms from a reading's time to its arrival here
    this.counts = Object.fromEntries(STATES.map((state) => [state, 0]));
  }

  now() {
    return Date.now() + this.skew;
  }

  sensor(device, metric) {
    return this.devices.get(device)?.sensors.get(metric);
  }

  /** Take devices from the registry. */
  addDevices(list) {
    for (const entry of list) {
      const before = this.devices.get(entry.id);
      const sensors = new Map();
      for (const metric of entry.metrics) {
        const sensor = before?.sensors.get(metric) ?? {
          device: entry.id, metric, unit: this.metrics.get(metric)?.unit ?? "", time: null, value: null, flags: [], told: "silent", shown: null, since: null,
        };
        sensors.set(metric, sensor);
      }
      this.devices.set(entry.id, { ...entry, sensors, state: "ok", heard: before?.heard ?? null });
      for (const sensor of sensors.values()) if (sensor.shown === null) this.judge(sensor, Date.parse(entry.created_at));
      this.touch(entry.id);
    }
    this.moved = true;
  }

  removeDevice(id) {
    for (const sensor of this.devices.get(id).sensors.values()) this.counts[sensor.shown] -= 1;
    this.devices.delete(id);
    this.moved = true;
  }

  /** Take readings, in columns. */
  addReadings({ device, metric, time, value, flags }, live) {
    const now = this.now();
    for (let i = 0; i < device.length; i++) {
      const known = this.devices.get(device[i]);
      if (!known) {
        this.unknown.add(device[i]);
        continue;
      }
      const sensor = known.sensors.get(metric[i]);
      if (!sensor) {
        this.unknown.add(device[i]);
        continue;
      }
      if (live && !flags[i].includes("late")) {
        const lag = now - time[i];
        this.lag = this.lag === null ? lag : this.lag + (lag - this.lag) * 0.02;
      }
      if (sensor.time !== null && time[i] < sensor.time) continue; // late: a newer reading is known
      sensor.time = time[i];
      sensor.value = value[i];
      sensor.flags = flags[i];
      if (live) {
        known.heard = now;
        if (sensor.told === "overdue" || sensor.told === "silent") sensor.told = "ok"; // the server reports it within seconds
      }
      this.judge(sensor, time[i]);
      this.touch(device[i]);
    }
  }

  /** Take a state from the server. */
  addState(device, metric, state, since) {
    const sensor = this.sensor(device, metric);
    if (!sensor) {
      this.unknown.add(device);
      return;
    }
    sensor.told = state;
    this.judge(sensor, since);
    this.touch(device);
  }

  judge(sensor, since) {
    let shown = sensor.told === "overdue" ? "overdue" : judged(sensor.flags);
    if (sensor.told === "silent") shown = this.now() < since + SILENCE * 1000 * (this.metrics.get(sensor.metric)?.interval_s ?? 0) ? "waiting" : "silent";
    if (shown === sensor.shown) return;
    if (sensor.shown) this.counts[sensor.shown] -= 1;
    this.counts[shown] += 1;
    sensor.shown = shown;
    sensor.since = since;
  }

  /** Update states that change with time: first readings become due. */
  age() {
    for (const device of this.devices.values()) {
      for (const sensor of device.sensors.values()) {
        if (sensor.shown !== "waiting") continue;
        this.judge(sensor, sensor.since);
        if (sensor.shown !== "waiting") this.touch(device.id);
      }
    }
  }

  touch(device) {
    this.changed.add(device);
  }

  takeChanges() {
    const changed = this.changed;
    this.changed = new Set();
    const moved = this.moved;
    this.moved = false;
    return { changed, moved };
  }
}

/** The filter of the devices and sensors that are shown. */
export class Filter {
  constructor() {
    this.domains = new Set(["traffic", "environment", "energy"]);
    this.district = "";
    this.metric = "";
    this.state = "";
    this.words = "";
  }

  device(device) {
    if (!this.domains.has(device.domain) || (this.district && device.district !== this.district)) return false;
    if (this.metric && !device.sensors.has(this.metric)) return false;
    if (this.words && !`${device.name} ${device.id}`.toLocaleLowerCase().includes(this.words)) return false;
    return !this.state || this.sensors(device).length > 0;
  }

  sensors(device) {
    const found = this.metric ? [device.sensors.get(this.metric)].filter(Boolean) : [...device.sensors.values()];
    return this.state ? found.filter((sensor) => sensor.shown === this.state) : found;
  }

  /** The worst state of the sensors that are shown. */
  stateOf(device) {
    let worst = "waiting";
    for (const sensor of this.sensors(device)) worst = worse(sensor.shown, worst);
    return worst;
  }
}
