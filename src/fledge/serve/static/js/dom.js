// Elements without innerHTML: whatever a model or a user wrote stays text.

export const $ = (selector, root = document) => root.querySelector(selector);

/** h("button", {class: "quiet", onclick: send}, "Send"): `on...` listens, properties are set, the rest become attributes. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element) element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A drawing from the sprite in index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A quiet square button; `label` is its name for screen readers and its hint for the mouse. */
export const iconButton = (name, label, onclick, props = {}) =>
  h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...props }, icon(name));

/** Says something in passing, aloud too; `action` is [label, function]. */
export function notify(text, action = null) {
  const toast = $("#toast");
  const undo = action && h("button", { type: "button", onclick: () => (action[1](), (toast.hidden = true)) }, action[0]);
  toast.replaceChildren(h("span", {}, text), ...(undo ? [undo] : []));
  toast.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => (toast.hidden = true), action ? 8000 : 4000);
}

/** To the clipboard; on a plain-http address other than localhost only the old way works. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const box = document.body.appendChild(h("textarea", { value: text, class: "visually-hidden" }));
    box.select();
    document.execCommand("copy");
    box.remove();
    button?.focus();
  }
  if (!button) return;
  button.replaceChildren(icon("check"));
  announce("Copied");
  setTimeout(() => button.replaceChildren(icon("copy")), 1500);
}

/** For screen readers alone. */
export const announce = (text) => ($("#announce").textContent = text);
