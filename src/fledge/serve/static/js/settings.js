// The sampling settings, after the server's table: the sheet and the requests are made from it.
// What the user did not change is neither kept nor sent, so that the server's own default holds.

import { dialog, html, nothing } from "./dom.js";
import { model, remember, state } from "./state.js";
import { save } from "./store.js";

/** The table of the stage that answers; a default of null is the server's affair. */
const fields = () => model(state.stages[0])?.sampling ?? [];
const allows = ({ low, high }, value) => value >= low && value <= high;

/** What a request says of the settings: the user's own values, where the server allows them. */
export function sampling() {
  const own = fields().filter((field) => allows(field, state.sampling[field.name]));
  return Object.fromEntries(own.map(({ name }) => [name, state.sampling[name]]));
}

/** Takes over what stands in a box, unless the browser says why it is no value. An empty box brings the default back. */
function set({ name, default: otherwise }, box) {
  if (!box.reportValidity()) return;
  const { [name]: _, ...others } = state.sampling;
  const isOwn = box.value !== "" && box.valueAsNumber !== otherwise;
  remember("sampling", isOwn ? { ...others, [name]: box.valueAsNumber } : others);
}

function setSystem({ target }) {
  state.chat.system = target.value;
  if (Object.keys(state.chat.nodes).length) save(state.chat);
}

// ---- Drawing

function row(field) {
  const id = `set-${field.name}`;
  const label = (field.name[0].toUpperCase() + field.name.slice(1)).replaceAll("_", " ");
  const isWhole = field.type === "integer";
  const value = sampling()[field.name] ?? field.default ?? "";
  const onChange = ({ target }) => set(field, target);
  const slider = html`
    <input type="range" aria-label="${label}, slider" aria-describedby="${id}-about" min=${field.low} max=${field.high} step="0.01"
      value=${field.default} .value=${value} @input=${onChange}>`;
  return html`
    <div class="field">
      <label for=${id}>${label}</label>
      <input id=${id} type="number" inputmode="decimal" aria-describedby="${id}-about" min=${field.low} max=${field.high}
        step=${isWhole ? 1 : "any"} placeholder="default" value=${field.default ?? ""} .value=${value} @change=${onChange}>
      ${isWhole ? nothing : slider}
      <small id="${id}-about">${field.help}</small>
    </div>`;
}

export const view = () => dialog("settings", "Settings", html`
  <div class="field">
    <label for="system">System prompt</label>
    <textarea id="system" rows="4" aria-describedby="system-about" placeholder="You are Pip, and you answer in rhymes."
      .value=${state.chat.system} @input=${setSystem}></textarea>
    <small id="system-about">Said before this conversation begins.</small>
  </div>
  <h3>Sampling</h3>
  <form id="fields" method="dialog" @reset=${() => remember("sampling", {})}>
    ${fields().map(row)}
    <button type="reset" class="plain">Restore the defaults</button>
  </form>`);
