// Texts in the chosen language, from the table texts.json.

const LANGUAGES = ["en", "vi"];
let table = {};
export let language = "en";

/** Load the table, and choose a language: the one that was chosen last, otherwise the browser's. */
export async function load() {
  table = await (await fetch("/console/texts.json")).json();
  const wished = [localStorage.getItem("citybeat.language"), ...navigator.languages.map((tag) => tag.slice(0, 2))];
  use(wished.find((tag) => LANGUAGES.includes(tag)) ?? "en");
}

export function use(tag) {
  language = tag;
  document.documentElement.lang = tag;
}

export function remember(tag) {
  localStorage.setItem("citybeat.language", tag);
  use(tag);
}

/** A text, with {names} filled in. */
export function t(key, values = {}) {
  const text = table[key]?.[language] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** Fill in the texts of the page's own elements. */
export function dress(root = document) {
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  for (const element of root.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  for (const element of root.querySelectorAll("[data-placeholder]")) element.placeholder = t(element.dataset.placeholder);
}
