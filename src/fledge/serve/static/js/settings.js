// The sampling settings, after the server's table: the sheet, the slash commands and the requests are made from it.
// What the user did not change is neither kept nor sent, so that the server's own default holds.

import { dialog, html, nothing } from "./dom.js";
import { changed, model, remember, state } from "./state.js";
import { save } from "./store.js";

/** The table of the stage that answers; a default of null is the server's affair. */
export const fields = () => model(state.stages[0])?.sampling ?? [];
export const label = ({ name }) => (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");
const isWhole = (field) => field.type === "integer";
const allows = (field, value) => value >= field.low && value <= field.high && (!isWhole(field) || Number.isSafeInteger(value));

/** The value that holds: the user's own, where the server allows it. */
export const current = ({ name, ...field }) => (allows(field, state.sampling[name]) ? state.sampling[name] : field.default);

/** Sets one field from text. Returns why not, or null. An empty text or "default" brings the default back. */
export function set(field, text) {
  const { [field.name]: _, ...others } = state.sampling;
  const value = ["", "default"].includes(text.trim()) ? field.default : Number(text);
  if (value === field.default) remember("sampling", others);
  else if (allows(field, value)) remember("sampling", { ...others, [field.name]: value });
  else return `${label(field)} is a ${isWhole(field) ? "whole " : ""}number from ${field.low} to ${field.high}, not “${text}”.`;
  return null;
}

/** What a request says of the settings: those that differ from the server's defaults. */
export function sampling() {
  const own = fields().filter((field) => current(field) !== field.default);
  return Object.fromEntries(own.map((field) => [field.name, current(field)]));
}

/** Sets the system prompt of the conversation; returns what to say about it. */
export function setSystem(text) {
  state.chat.system = text;
  if (Object.keys(state.chat.nodes).length) save(state.chat);
  return text ? "The system prompt is set." : "No system prompt.";
}

// ---- Drawing

const wrong = new Map(); // name -> why what stands in its box is no value

function row(field) {
  const id = `set-${field.name}`;
  const about = `${id}-about`;
  const step = isWhole(field) ? 1 : 0.01;
  const onChange = ({ target }) => {
    wrong.set(field.name, set(field, target.value));
    changed();
  };
  const slider = html`
    <input type="range" aria-label="${label(field)}, slider" aria-describedby=${about} min=${field.low} max=${field.high} step=${step}
      value=${field.default} .value=${current(field)} @input=${onChange}>`;
  return html`
    <div class="field">
      <label for=${id}>${label(field)}</label>
      <input id=${id} type="number" inputmode="decimal" aria-describedby=${about} min=${field.low} max=${field.high} step=${step}
        placeholder="default" value=${field.default ?? ""} .value=${current(field) ?? ""} @change=${onChange}>
      ${isWhole(field) ? nothing : slider}
      <small id=${about} class=${wrong.get(field.name) ? "wrong" : ""}>${wrong.get(field.name) ?? field.help}</small>
    </div>`;
}

function restore() {
  wrong.clear();
  remember("sampling", {});
}

export const view = () => dialog("settings", "Settings", html`
  <div class="field">
    <label for="system">System prompt</label>
    <textarea id="system" rows="4" aria-describedby="system-about" placeholder="You are Pip, and you answer in rhymes."
      .value=${state.chat.system} @input=${({ target }) => setSystem(target.value)}></textarea>
    <small id="system-about">Said before this conversation begins.</small>
  </div>
  <h3>Sampling</h3>
  <form id="fields" method="dialog" @reset=${restore}>
    ${fields().map(row)}
    <button type="reset" class="plain">Restore the defaults</button>
  </form>`);
