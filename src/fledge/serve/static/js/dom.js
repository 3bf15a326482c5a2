// What every view is made of. Templates are lit-html's: whatever a model or a user wrote stays text.

import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { guard } from "../vendor/lit-html/directives/guard.js";
import { keyed } from "../vendor/lit-html/directives/keyed.js";

export { guard, html, keyed, nothing, render };
export const $ = (selector, root = document) => root.querySelector(selector);

/** Puts the drawings into the page. From a file beside it, they would be fetched with every button and be missing once the server is gone. */
export async function addDrawings() {
  const file = await (await fetch("icons.svg")).text();
  document.body.append(new DOMParser().parseFromString(file, "image/svg+xml").documentElement);
}

/** A drawing of icons.svg. */
export const icon = (name) => html`<svg class="icon" aria-hidden="true"><use href="#icon-${name}"></use></svg>`;

/** A quiet square button; `label` is its name for screen readers and, unless there is a `hint`, its hint for the mouse. */
export const iconButton = (name, label, onclick, { id, hint = label, disabled = false, pressed } = {}) => html`
  <button type="button" class="icon-button" id=${id ?? nothing} aria-label=${label} title=${hint}
    aria-pressed=${pressed ?? nothing} ?disabled=${disabled} @click=${onclick}>${icon(name)}</button>`;

/** Copies what `text` returns to the clipboard; on a plain-http address other than localhost only the old way works. */
export const copyButton = (label, text) => iconButton("copy", label, async ({ currentTarget: button }) => {
  try {
    await navigator.clipboard.writeText(text());
  } catch {
    const box = document.body.appendChild(document.createElement("textarea"));
    Object.assign(box, { value: text(), className: "visually-hidden" }).select();
    document.execCommand("copy");
    box.remove();
    button.focus();
  }
  const drawing = $("use", button);
  drawing.setAttribute("href", "#icon-check");
  announce("Copied");
  setTimeout(() => drawing.setAttribute("href", "#icon-copy"), 1500);
});

/** A window over the page; Escape, a click beside it and its button close it. */
export const dialog = (id, title, content) => html`
  <dialog id=${id} closedby="any" aria-labelledby="${id}-title">
    <form method="dialog" class="head">
      <h2 id="${id}-title">${title}</h2>
      <button class="icon-button" aria-label="Close">${icon("cross")}</button>
    </form>
    ${content}
  </dialog>`;

/** What went wrong, with a button that tries again. */
export const problem = (message, retry) => html`
  <div class="problem" role="alert"><p>${message}</p><button type="button" class="solid" @click=${retry}>Retry</button></div>`;

/** Asks for a text in a window over the page; resolves to it, or to null where none was given. */
export async function askFor(label, { value = "", type = "text", about = "" }) {
  const line = html`<input id="asked" type=${type} .value=${value} autocomplete="off" required aria-describedby="asked-about">`;
  const given = askIn(label, line, about);
  $("#asked").select();
  return (await given)?.[0].trim();
}

/** The same for texts of several lines. */
export function askForLines(label, values) {
  const onKey = (event) => isSending(event) && (event.preventDefault(), $("#ask .solid").click());
  const lines = (value, place) => html`
    <textarea id=${place ? nothing : "asked"} aria-label="${label}, part ${place + 1}" rows=${Math.min(8, value.split("\n").length + 1)}
      dir="auto" .value=${value} ?required=${values.length === 1} @keydown=${onKey}></textarea>`;
  return askIn(label, values.map(lines));
}

function askIn(label, boxes, about = "") {
  const box = document.body.appendChild(document.createElement("dialog"));
  Object.assign(box, { id: "ask", ariaLabel: label, closedBy: "any" });
  render(html`
    <form method="dialog">
      <label for="asked">${label}</label>
      ${boxes}
      <small id="asked-about">${about}</small>
      <footer>
        <button type="button" class="plain" @click=${() => box.close()}>Cancel</button><button class="solid" value="given">Done</button>
      </footer>
    </form>`, box);
  box.showModal();
  $("#asked").focus();
  const texts = () => [...box.querySelectorAll("input, textarea")].map(({ value }) => value);
  return new Promise((resolve) => {
    box.onclose = () => (box.remove(), resolve(box.returnValue === "given" ? texts() : null));
  });
}

/** Says something in passing, aloud too, perhaps with a button that calls `action`; below what was said before. */
export function notify(text, label = null, action = null) {
  const said = document.createElement("p");
  const button = html`<button type="button" @click=${() => (action(), said.remove())}>${label}</button>`;
  render(html`<span>${text}</span>${action ? button : nothing}`, said);
  $("#toast").append(said);
  setTimeout(() => said.remove(), action ? 10_000 : 4000);
}

/** Whether a key in a box means "send": not where a writing system takes Enter itself (229 in Safari). */
export const isSending = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;

/** For screen readers alone. */
export const announce = (text) => ($("#announce").textContent = text);
