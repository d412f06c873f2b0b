// The map: a mark for each device, on a canvas. The shape shows the domain; colour and letter show the worst state of its sensors.
//
// Without tiles, districts are drawn as areas around their devices with their names, for orientation.

import { h } from "./dom.js";
import { t } from "./texts.js";
import { GLYPHS, isWrong } from "./store.js";

const SIZE = { ok: 6, wrong: 9, chosen: 12 };
//: Zoom below which marks are smaller, and by how much, since the marks of a whole city are close together.
const FAR = { zoom: 12, share: 0.75 };
//: ms that a mark shows a ring after its device reported.
const FRESH = 900;
//: Devices farther from the middle than this multiple of the 90th percentile of distances do not count for the city's extent.
const OUTLIER = 4;
//: Pixels around a district's devices.
const MARGIN = 22;

let colours = {};

/** A mark that draws itself: Leaflet's canvas has circles and lines only. Its own layers use `_updatePath` and `_ctx` too. */
const Mark = L.CircleMarker.extend({
  _updatePath() {
    const renderer = this._renderer;
    if (!renderer._drawing || this._empty()) return;
    const { state, domain, chosen, fresh } = this.options;
    const ctx = renderer._ctx;
    const { x, y } = this._point;
    const far = this._map.getZoom() < FAR.zoom;
    const r = isWrong(state) ? SIZE.wrong : SIZE.ok * (far ? FAR.share : 1);
    if (chosen || fresh) {
      ctx.beginPath();
      ctx.arc(x, y, chosen ? SIZE.chosen + 1 : r + 3, 0, 2 * Math.PI);
      ctx.lineWidth = chosen ? 3 : 1.5;
      ctx.strokeStyle = chosen ? colours.ink : colours[state];
      ctx.stroke();
    }
    ctx.beginPath();
    trace(ctx, domain, x, y, r);
    ctx.fillStyle = colours[state];
    ctx.fill();
    ctx.lineWidth = 1.5;
    ctx.strokeStyle = colours.surface;
    ctx.stroke();
    if (isWrong(state)) {
      ctx.fillStyle = colours.surface;
      ctx.font = "bold 12px system-ui, sans-serif";
      ctx.textAlign = "center";
      ctx.textBaseline = "middle";
      ctx.fillText(GLYPHS[state], x, y + (domain === "energy" ? 2 : 0.5));
    }
  },
});

function trace(ctx, domain, x, y, r) {
  if (domain === "traffic") ctx.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8);
  else if (domain === "energy") {
    ctx.moveTo(x, y - r * 1.2);
    ctx.lineTo(x + r * 1.15, y + r * 0.85);
    ctx.lineTo(x - r * 1.15, y + r * 0.85);
    ctx.closePath();
  } else ctx.arc(x, y, r, 0, 2 * Math.PI);
}

/** A domain's shape, for lists and the legend. */
export function shape(domain) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 12 12");
  svg.setAttribute("class", "shape");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", { traffic: "M1.5 1.5h9v9h-9z", energy: "M6 1l5.5 10h-11z", environment: "M6 1a5 5 0 1 0 .01 0z" }[domain]);
  svg.append(path);
  return svg;
}

/** Convex hull of points [x, y] (Andrew's monotone chain). */
function hull(points) {
  const sorted = [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const cross = (o, a, b) => (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0]);
  const half = (list) => {
    const chain = [];
    for (const point of list) {
      while (chain.length >= 2 && cross(chain.at(-2), chain.at(-1), point) <= 0) chain.pop();
      chain.push(point);
    }
    return chain.slice(0, -1);
  };
  return sorted.length < 3 ? sorted : [...half(sorted), ...half(sorted.reverse())];
}

/** The extent of a city: all its devices but the few that are far from the others, such as at 0° N 0° E. */
function extent(devices) {
  const middle = (values) => values.sort((a, b) => a - b)[values.length >> 1];
  const [lat, lng] = [middle(devices.map((d) => d.latitude)), middle(devices.map((d) => d.longitude))];
  const away = (device) => Math.hypot(device.latitude - lat, device.longitude - lng);
  const common = devices.map(away).sort((a, b) => a - b)[Math.floor(0.9 * (devices.length - 1))];
  return L.latLngBounds(devices.filter((device) => away(device) <= OUTLIER * common).map((d) => [d.latitude, d.longitude]));
}

export class CityMap {
  constructor(element, { tiles, credit, choose }) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.map = L.map(element, {
      preferCanvas: true, zoomControl: false, attributionControl: false, fadeAnimation: !still, zoomAnimation: !still,
      markerZoomAnimation: !still, inertia: !still, maxZoom: 19, minZoom: 3, zoomSnap: 0.25,
    });
    this.still = still;
    this.renderer = L.canvas({ padding: 0.2, tolerance: 6 });
    // Areas and their names have a canvas of their own below the marks, so that they are not redrawn when a mark changes.
    for (const [pane, order] of [["areas", 300], ["names", 310]]) this.map.createPane(pane).style.zIndex = order;
    this.ground = L.canvas({ padding: 0.2, pane: "areas" });
    this.areas = L.layerGroup().addTo(this.map);
    this.marks = new Map();
    this.fresh = new Set();
    this.choose = choose;
    this.tiles = Boolean(tiles);
    if (tiles) {
      L.tileLayer(tiles, { maxZoom: 19, crossOrigin: false }).addTo(this.map);
      const shown = L.control.attribution({ prefix: false }).addTo(this.map);
      if (credit) shown.addAttribution(h("span", {}, credit).innerHTML); // Leaflet takes markup, so the text is escaped
    }
    L.control.scale({ imperial: false, position: "bottomright" }).addTo(this.map);
    this.map.setView([13.77, 109.21], 12);
    this.zoom = L.control.zoom({ position: "topright" });
    this.dress();
    this.map.on("zoomend", () => this.label());
    this.moved = false; // whether a person moved the map; until then it shows the whole city
    for (const event of ["pointerdown", "wheel", "keydown"]) element.addEventListener(event, () => (this.moved = true), { passive: true });
    new ResizeObserver(() => {
      this.map.invalidateSize({ animate: false });
      this.fitted = null;
      this.fit();
    }).observe(element);
  }

  /** Apply the colours of the page's theme and the texts of its language. */
  dress() {
    const style = getComputedStyle(document.documentElement);
    for (const state of Object.keys(GLYPHS)) colours[state] = style.getPropertyValue(`--${state}`).trim();
    colours.ink = style.getPropertyValue("--ink").trim();
    colours.surface = style.getPropertyValue("--surface").trim();
    colours.area = style.getPropertyValue("--area").trim();
    this.zoom.remove();
    this.zoom = L.control.zoom({ position: "topright", zoomInTitle: t("map.in"), zoomOutTitle: t("map.out") }).addTo(this.map);
    for (const area of this.areas.getLayers()) area.setStyle?.({ color: colours.area, fillColor: colours.area });
    for (const mark of this.marks.values()) mark.redraw();
  }

  /** Make marks for exactly these devices, at their places; `paint` sets their state. Returns the number of devices without one. */
  place(devices, stateOf) {
    const placed = devices.filter((device) => device.latitude !== null && device.longitude !== null);
    placed.sort((a, b) => isWrong(stateOf(a)) - isWrong(stateOf(b))); // marks that need attention are on top
    const wanted = new Set(placed.map((device) => device.id));
    for (const [id, mark] of this.marks) {
      if (!wanted.has(id)) {
        mark.remove();
        this.marks.delete(id);
        this.fresh.delete(id);
      }
    }
    for (const device of placed) {
      const at = [device.latitude, device.longitude];
      const mark = this.marks.get(device.id);
      if (mark) mark.setLatLng(at);
      else {
        const made = new Mark(at, { renderer: this.renderer, radius: SIZE.chosen, state: stateOf(device), domain: device.domain });
        made.on("click", () => this.choose(device.id));
        made.bindTooltip(() => h("span", {}, device.name), { direction: "top", offset: [0, -8] });
        made.addTo(this.map);
        this.marks.set(device.id, made);
      }
    }
    return devices.length - placed.length;
  }

  /** Draw districts, from all devices of the city, so that areas do not change with filters. */
  outline(devices) {
    this.areas.clearLayers();
    const districts = new Map();
    for (const device of devices) {
      if (device.latitude === null || device.longitude === null || !device.district) continue;
      if (!districts.has(device.district)) districts.set(device.district, []);
      districts.get(device.district).push([device.latitude, device.longitude]);
    }
    for (const [name, points] of districts) {
      const here = L.latLngBounds(points);
      if (!this.tiles) {
        L.polygon(hull(points), {
          renderer: this.ground, pane: "areas", interactive: false, color: colours.area, fillColor: colours.area, fillOpacity: 1, opacity: 1,
          weight: 2 * MARGIN, lineJoin: "round",
        }).addTo(this.areas);
        L.marker([here.getNorth(), here.getCenter().lng], {
          pane: "names", interactive: false, keyboard: false, icon: L.divIcon({ className: "district", html: h("span", {}, name), iconSize: [0, 0] }),
        }).addTo(this.areas);
      }
    }
    this.bounds = extent(devices.filter((device) => device.latitude !== null && device.longitude !== null));
    this.label();
  }

  /** Show the names of districts that do not overlap. */
  label() {
    const taken = [];
    for (const area of this.areas.getLayers()) {
      const text = area.getElement?.()?.firstChild;
      if (!text?.textContent) continue;
      const { x, y } = this.map.latLngToLayerPoint(area.getLatLng());
      const [w, h] = [7.5 * text.textContent.length, 18];
      const free = taken.every((other) => Math.abs(other.x - x) * 2 > other.w + w || Math.abs(other.y - y) > h);
      text.hidden = !free;
      if (free) taken.push({ x, y, w });
    }
  }

  /** Show the whole city, unless a person has moved the map. */
  fit() {
    if (this.moved || !this.bounds?.isValid() || this.fitted?.equals(this.bounds)) return;
    this.fitted = this.bounds;
    const legend = document.getElementById("legend");
    const below = getComputedStyle(legend).position === "absolute" ? legend.offsetHeight : 0;
    this.map.fitBounds(this.bounds, { paddingTopLeft: [40, 50], paddingBottomRight: [40, 35 + below], maxZoom: 15, animate: false });
  }

  /** Set a device's state, and redraw its mark if that changes it. */
  paint(id, state, reported) {
    const mark = this.marks.get(id);
    if (!mark) return;
    let seen = mark.options.state !== state;
    mark.options.state = state;
    if (reported && !this.still) {
      if (!mark.options.fresh) seen = true;
      mark.options.fresh = performance.now();
      this.fresh.add(id);
    }
    if (seen) {
      mark.redraw();
      if (isWrong(state)) mark.bringToFront();
    }
  }

  /** Remove rings after their time. */
  settle() {
    const before = performance.now() - FRESH;
    for (const id of this.fresh) {
      const mark = this.marks.get(id);
      if (mark.options.fresh > before) continue;
      mark.options.fresh = 0;
      this.fresh.delete(id);
      mark.redraw();
    }
  }

  select(id) {
    for (const [other, mark] of this.marks) {
      const chosen = other === id;
      if (Boolean(mark.options.chosen) === chosen) continue;
      mark.options.chosen = chosen;
      mark.redraw();
      if (chosen) mark.bringToFront();
    }
  }

  show(id) {
    const mark = this.marks.get(id);
    if (mark && !this.map.getBounds().pad(-0.1).contains(mark.getLatLng())) this.map.panTo(mark.getLatLng(), { animate: !this.still });
  }
}
