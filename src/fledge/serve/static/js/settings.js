// The sampling settings: one table behind the sheet, the slash commands and the requests.

import { $, h } from "./dom.js";
import { changed, state } from "./state.js";
import { save, setting } from "./store.js";

export const FIELDS = [
  { key: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, value: 0.7, about: "0 always takes the likeliest token; more is more varied." },
  { key: "top_k", label: "Top-k", min: 0, max: 1000, step: 1, value: 50, about: "Draw from the k likeliest tokens; 0 from all." },
  { key: "top_p", label: "Top-p", min: 0, max: 1, step: 0.01, value: 1, about: "Draw from the likeliest tokens that make up this share." },
  { key: "min_p", label: "Min-p", min: 0, max: 1, step: 0.01, value: 0, about: "Leave out tokens less likely than this share of the best." },
  { key: "max_tokens", label: "Longest answer", min: 1, max: 65536, step: 1, value: null, empty: "what fits", about: "In tokens." },
  { key: "seed", label: "Seed", min: 0, max: 2 ** 31 - 1, step: 1, value: null, empty: "random", about: "The same seed gives the same answer again." },
];

const chosen = setting.get("sampling", {});
export const current = (field) => chosen[field.key] ?? field.value;

/** Sets one field from text. Returns why not, or null. An empty text or a word brings the default back. */
export function set(field, text) {
  const value = Number(text);
  const isEmpty = text.trim() === "" || text === "default" || text === field.empty;
  if (!isEmpty && !(value >= field.min && value <= field.max && (field.step < 1 || Number.isInteger(value))))
    return `${field.label} is a ${field.step < 1 ? "number" : "whole number"} from ${field.min} to ${field.max}, not “${text}”.`;
  if (isEmpty) delete chosen[field.key];
  else chosen[field.key] = value;
  setting.set("sampling", chosen);
  changed();
  return null;
}

/** The settings as the API takes them. */
export const sampling = () =>
  Object.fromEntries(FIELDS.map((field) => [field.key, current(field)]).filter(([, value]) => value !== null));

export function setSystem(text) {
  state.chat.system = text;
  if (Object.keys(state.chat.nodes).length) save(state.chat);
}

export function mount() {
  const inputs = FIELDS.map((field) => {
    const id = `set-${field.key}`;
    const props = { min: field.min, max: field.max, step: field.step, "aria-describedby": `${id}-about`, placeholder: field.empty ?? "" };
    const number = h("input", { id, type: "number", inputMode: "decimal", ...props });
    const range = field.step < 1 && h("input", { type: "range", "aria-label": `${field.label}, slider`, ...props });
    const about = h("small", { id: `${id}-about` });
    const change = ({ target }) => {
      const wrong = set(field, target.value);
      about.textContent = wrong ?? field.about;
      about.classList.toggle("wrong", wrong !== null);
    };
    number.addEventListener("change", change);
    if (range) range.addEventListener("input", change);
    const draw = () => [number, range].forEach((input) => input && (input.value = current(field) ?? ""));
    about.textContent = field.about;
    return { draw, row: h("div", { class: "field" }, h("label", { htmlFor: id }, field.label), number, range, about) };
  });
  const draw = () => inputs.forEach((input) => input.draw());
  $("#fields").append(...inputs.map((input) => input.row));
  $("#system").addEventListener("input", ({ target }) => setSystem(target.value));
  $("#defaults").addEventListener("click", () => FIELDS.forEach((field) => set(field, "")));
  return () => {
    draw();
    if ($("#system") !== document.activeElement) $("#system").value = state.chat.system;
  };
}
