// The bar: which stages of the run answer, how they are shown, and the ways to theme, help and settings.

import * as api from "./api.js";
import { $, html, iconButton } from "./dom.js";
import { keep } from "./keep.js";
import { changed, model, remember, state } from "./state.js";

const ABOUT = {
  base: "has read a lot, was never taught to answer",
  midtrain: "knows what a conversation looks like",
  sft: "was taught to answer",
  rl: "has practised with a grader",
};
const NEXT_THEME = { auto: "light", light: "dark", dark: "auto" };

/** Asks the server for the stages. */
export async function list() {
  try {
    state.error = null;
    state.models = await api.models();
    const first = state.models.find((known) => known.default) ?? state.models[0];
    if (!state.stages.length || !state.stages.every(model)) state.stages = [first.id];
  } catch (error) {
    state.error = error.message;
  }
  changed();
}

const choose = () => remember("stages", [$("#stage"), $("#other")].filter((box) => !box.hidden).map((box) => box.value));

function compare() {
  const [first, second] = state.stages;
  const other = state.models.find((known) => known.id !== first);
  remember("stages", second ? [first] : [first, other.id]);
}

function changeTheme() {
  const { dataset } = document.documentElement;
  dataset.theme = NEXT_THEME[dataset.theme];
  keep("localStorage", "theme", dataset.theme);
  changed();
}

function stageBox(id, label, chosen) {
  const option = (known) => html`
    <option value=${known.id} .selected=${known.id === chosen}><b>${known.id}</b><small> ${ABOUT[known.id]}</small></option>`;
  return html`
    <select id=${id} aria-label=${label} ?hidden=${!chosen || !state.models.length} @change=${choose}>
      <button><selectedcontent></selectedcontent></button>
      ${state.models.map(option)}
    </select>`;
}

export function view(menu) {
  const [first, second] = state.stages;
  const { theme } = document.documentElement.dataset;
  return html`
    <header id="bar">
      ${menu}
      <div class="stages">
        ${stageBox("stage", "Stage that answers", first)}
        <span id="versus" ?hidden=${!second}>and</span>
        ${stageBox("other", "Second stage", second)}
        ${state.models.length < 2 ? "" : iconButton("columns", "Compare two stages", compare, { id: "compare", pressed: Boolean(second) })}
      </div>
      ${iconButton("eye", "Inspect probabilities", () => remember("inspect", !state.inspect), { id: "inspect", pressed: state.inspect })}
      ${iconButton(theme, `Theme: ${theme}`, changeTheme, { id: "theme" })}
      ${iconButton("sliders", "Settings", () => $("#settings").showModal(), { id: "settings-open" })}
    </header>`;
}
