// Starts the page: the bar with the stages, the dialogs, the keys, and the first list of models.

import * as api from "./api.js";
import * as chat from "./chat.js";
import { help } from "./commands.js";
import * as composer from "./composer.js";
import { newChat } from "./conversation.js";
import { $, h, icon, notify } from "./dom.js";
import * as settings from "./settings.js";
import * as sidebar from "./sidebar.js";
import { changed, model, onChange, setInspect, setStages, show, state } from "./state.js";
import * as store from "./store.js";

const STAGES = {
  base: "has read a lot, was never taught to answer",
  midtrain: "knows what a conversation looks like",
  sft: "was taught to answer",
  rl: "has practised with a grader",
};
const THEMES = ["auto", "light", "dark"];

function drawBar() {
  const option = (known) => h("option", { value: known.id }, h("b", {}, known.id), h("small", {}, ` ${STAGES[known.id] ?? ""}`));
  for (const [index, select] of [$("#stage"), $("#other")].entries()) {
    if (select.options.length !== state.models.length) select.append(...state.models.map(option));
    if (state.stages[index]) select.value = state.stages[index];
    select.hidden = !state.stages[index];
  }
  $("#versus").hidden = $("#other").hidden;
  $("#compare").hidden = state.models.length < 2;
  $("#compare").setAttribute("aria-pressed", String(state.stages.length > 1));
  $("#inspect").setAttribute("aria-pressed", String(state.inspect));
  const theme = document.documentElement.dataset.theme;
  if ($("#theme").title !== `Theme: ${theme}`) $("#theme").replaceChildren(icon(theme));
  Object.assign($("#theme"), { title: `Theme: ${theme}`, ariaLabel: `Theme: ${theme}` });
}

function mountBar() {
  const choose = () => setStages([$("#stage"), $("#other")].filter((select) => !select.hidden).map((select) => select.value));
  $("#stage").addEventListener("change", choose);
  $("#other").addEventListener("change", choose);
  $("#compare").addEventListener("click", () => {
    const [first] = state.stages;
    const other = state.models.find((known) => known.id !== first);
    setStages(state.stages.length > 1 ? [first] : [first, other.id]);
  });
  $("#inspect").addEventListener("click", () => setInspect(!state.inspect));
  $("#theme").addEventListener("click", () => {
    const { dataset } = document.documentElement;
    dataset.theme = THEMES[(THEMES.indexOf(dataset.theme) + 1) % THEMES.length];
    localStorage.setItem("fledge.theme", dataset.theme);
    drawBar();
  });
  $("#help-open").addEventListener("click", help);
  for (const dialog of document.querySelectorAll("dialog"))
    dialog.addEventListener("click", (event) => (event.target === dialog || event.target.closest(".close")) && dialog.close());
  $("#first-error button").addEventListener("click", list);
}

/** Asks for the API key; resolves to null where the dialog is closed without one. */
function askForKey(wasWrong) {
  const dialog = $("#key");
  $("#key-wrong").hidden = !wasWrong;
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    const done = (value) => (($("#key-form").onsubmit = dialog.onclose = null), dialog.close(), resolve(value));
    $("#key-form").onsubmit = (event) => (event.preventDefault(), done($("#key-box").value.trim() || null));
    dialog.onclose = () => done(null);
  });
}

async function list() {
  try {
    state.error = null;
    state.models = await api.models();
    const first = state.models.find((known) => known.default) ?? state.models[0];
    const last = store.setting.get("stages", []);
    state.stages = last.length && last.every(model) ? last : [first.id];
  } catch (error) {
    state.error = error.message;
  }
  changed();
}

function onKey(event) {
  const command = event.metaKey || event.ctrlKey;
  if (command && event.key.toLowerCase() === "k") sidebar.search();
  else if (command && event.shiftKey && event.key.toLowerCase() === "o") $("#new").click();
  else if (event.key === "Escape" && !$("dialog[open]")) {
    if ($("#commands").hidden === false) $("#commands").hidden = true;
    else if (!chat.cancelEdit() && !sidebar.closeOnPhone()) chat.stop();
    return;
  } else return;
  event.preventDefault();
}

function openFromAddress() {
  const id = location.hash.slice(1);
  const isNew = !Object.keys(state.chat.nodes).length;
  if (id !== state.chat.id && !(id === "" && isNew)) show(store.get(id) ?? newChat());
}

const kept = await store.open();
mountBar();
settings.mount();
api.onKeyNeeded(askForKey);
for (const draw of [drawBar, chat.mount(), composer.mount(), sidebar.mount()]) onChange(draw);
addEventListener("keydown", onKey);
addEventListener("hashchange", openFromAddress);
openFromAddress();
changed();
$("#prompt").focus();
await list();
document.body.classList.add("ready");
if (!kept) notify("This browser keeps nothing: conversations last until the page is closed.");
