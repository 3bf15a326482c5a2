// The sampling settings, after the server's table: the sheet, the slash commands and the requests are made from it.
// What the user did not change is neither kept nor sent, so that the server's own default holds.

import { $, h } from "./dom.js";
import { model, state } from "./state.js";
import { save, setting } from "./store.js";

const chosen = setting.get("sampling", {});

/** The table of the stage that answers; a default of null is the server's affair. */
export const fields = () => model(state.stages[0])?.sampling ?? [];
export const label = ({ name }) => (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");
const isWhole = (field) => field.type === "integer";
const allows = (field, value) => value >= field.low && value <= field.high && (!isWhole(field) || Number.isInteger(value));

/** The value that holds: the user's own, where the server allows it. */
export const current = (field) => (allows(field, chosen[field.name]) ? chosen[field.name] : field.default);

/** Sets one field from text. Returns why not, or null. An empty text or "default" brings the default back. */
export function set(field, text) {
  const value = ["", "default"].includes(text.trim()) ? field.default : Number(text);
  if (value === field.default) delete chosen[field.name];
  else if (allows(field, value)) chosen[field.name] = value;
  else return `${label(field)} is a ${isWhole(field) ? "whole " : ""}number from ${field.low} to ${field.high}, not “${text}”.`;
  setting.set("sampling", chosen);
  return null;
}

/** What a request says of the settings: those that differ from the server's defaults. */
export function sampling() {
  const changed = fields().filter((field) => current(field) !== field.default);
  return Object.fromEntries(changed.map((field) => [field.name, current(field)]));
}

export function setSystem(text) {
  state.chat.system = text;
  if (Object.keys(state.chat.nodes).length) save(state.chat);
}

function row(field) {
  const id = `set-${field.name}`;
  const value = current(field) ?? "";
  const props = { min: field.low, max: field.high, step: isWhole(field) ? 1 : 0.01, "aria-describedby": `${id}-about`, value };
  const about = h("small", { id: `${id}-about` }, field.help);
  const change = ({ target }) => {
    const wrong = set(field, target.value);
    about.textContent = wrong ?? field.help;
    about.classList.toggle("wrong", wrong !== null);
    if (wrong === null) for (const input of inputs) input.value = current(field) ?? "";
  };
  const inputs = [h("input", { id, type: "number", inputMode: "decimal", ...props, placeholder: "default", onchange: change })];
  if (!isWhole(field)) inputs.push(h("input", { type: "range", ...props, "aria-label": `${label(field)}, slider`, oninput: change }));
  return h("div", { class: "field" }, h("label", { htmlFor: id }, label(field)), ...inputs, about);
}

const draw = () => $("#fields").replaceChildren(...fields().map(row));

export function open() {
  draw();
  $("#system").value = state.chat.system;
  $("#settings").showModal();
}

export function mount() {
  $("#settings-open").addEventListener("click", open);
  $("#system").addEventListener("input", ({ target }) => setSystem(target.value));
  $("#defaults").addEventListener("click", () => {
    for (const field of fields()) set(field, "");
    draw();
  });
}
