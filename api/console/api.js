// Requests to the API, like those of any client. The key is sent in a header, and kept for this tab, or on this machine on request.

import { $ } from "./dom.js";
import { t } from "./texts.js";

const STORED = "citybeat.key";
const PAGE = 10_000;
let key = null;
let asking = null;

/** Take the key from the address (`#key=…`, which is never sent) and remove it there; otherwise use the one that was kept. */
export function findKey() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given) {
    sessionStorage.setItem(STORED, given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  key = sessionStorage.getItem(STORED) ?? localStorage.getItem(STORED);
}

export class Refused extends Error {}

export function headers() {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Ask for a key in the dialog; concurrent calls share one dialog. */
export function askKey(reason = "") {
  asking ??= new Promise((resolve) => {
    const dialog = $("key-dialog");
    $("key-error").textContent = reason;
    $("key-input").value = "";
    $("key-remember").checked = localStorage.getItem(STORED) !== null;
    $("key-forget").hidden = key === null;
    const ended = new AbortController();
    const done = (taken) => {
      ended.abort();
      dialog.close();
      asking = null;
      resolve(taken);
    };
    const on = (element, event, work) => element.addEventListener(event, work, { signal: ended.signal });
    on($("key-form"), "submit", (event) => {
      event.preventDefault();
      keep($("key-input").value.trim() || null, $("key-remember").checked);
      done(true);
    });
    on($("key-forget"), "click", () => {
      keep(null, false);
      done(true);
    });
    on(dialog, "cancel", (event) => {
      event.preventDefault();
      done(false);
    });
    dialog.showModal();
    $("key-input").focus();
  });
  return asking;
}

function keep(value, remember) {
  key = value;
  sessionStorage.removeItem(STORED);
  localStorage.removeItem(STORED);
  if (value) (remember ? localStorage : sessionStorage).setItem(STORED, value);
}

/** A successful answer. If the key is missing or refused, ask for one until it is accepted. */
export async function ask(path, options = {}) {
  for (;;) {
    const shown = key;
    const answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
    if (answer.ok) return answer;
    const problem = await answer.json().catch(() => ({}));
    if (answer.status !== 401 && answer.status !== 403) throw new Refused(problem.detail ?? `HTTP ${answer.status}`);
    if (shown !== key) continue; // another request asked for a key meanwhile
    const reason = shown === null && answer.status === 401 ? "" : t(`key.refused.${answer.status}`, { detail: problem.detail });
    while (!(await askKey(reason)));
    if (document.body.dataset.ready) {
      location.reload(); // another key may see other devices
      await new Promise(() => {});
    }
  }
}

export async function get(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of [value].flat()) if (each !== null && each !== undefined) query.append(name, each);
  }
  const text = query.toString();
  return (await ask(text ? `${path}?${text}` : path)).json();
}

/** All pages of a list, one after another. */
export async function* pages(path, parameters = {}) {
  let cursor = null;
  do {
    const page = await get(path, { ...parameters, limit: PAGE, cursor });
    yield page;
    cursor = page.next_cursor;
  } while (cursor);
}
