// Small helpers to build and update elements.

export const $ = (id) => document.getElementById(id);

/** Make an element: properties as of the DOM (class for className), then its children. */
export function h(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) made.style.setProperty(name, value);
    else if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Replace the children of an element if `content` has changed; the focus stays on its key. */
export function fill(element, content, make) {
  const text = JSON.stringify(content);
  if (element.filledWith === text) return;
  element.filledWith = text;
  const key = element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  element.replaceChildren(...make(content));
  if (key) element.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}

export const empty = (text) => h("li", { class: "muted" }, text);

const titles = new Map();

/** Keep titles of items: {id: title}. */
export function learnTitles(found) {
  for (const [id, title] of Object.entries(found ?? {})) titles.set(id, title);
}

/** What a person calls an item: its title, else its id. */
export const nameOf = (id) => titles.get(id) ?? id;

export const count = (value) => (value ?? null) === null ? "–" : Math.round(value).toLocaleString("en");
export const percent = (share) => `${Math.round(share * 100)} %`;
export const timeOf = (ms) => new Date(ms).toLocaleTimeString("en-GB");
