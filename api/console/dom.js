// Elements, made without markup: whatever a device is called, it is text.

/** An element with properties and children; a child that is a string becomes text, null is left out. */
export function h(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") made.className = value;
    else if (name === "dataset") Object.assign(made.dataset, value);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && !name.startsWith("aria")) made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const $ = (id) => document.getElementById(id);

/** Set an element's text, and touch the page only if it changes. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Make a parent's children these, moving what is there already. */
export function arrange(parent, children) {
  let at = parent.firstChild;
  for (const child of children) {
    if (child === at) at = at.nextSibling;
    else parent.insertBefore(child, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** Call `work` at most once in `ms`, and once more behind the last call. Skipped while nobody sees the page. */
export function throttled(work, ms) {
  let timer = null;
  let last = -Infinity;
  const run = () => {
    timer = null;
    if (document.hidden) return;
    last = performance.now();
    work();
  };
  return () => {
    timer ??= setTimeout(run, Math.max(0, last + ms - performance.now()));
  };
}
