// The conversation on show: asks, streams, stops, asks again, edits, and moves between branches.

import * as api from "./api.js";
import { AnswerView } from "./answer.js";
import { absorb, add, choose, laneOf, messages, newAnswer, path, plain, siblings } from "./conversation.js";
import { $, announce, copy, h, iconButton, notify } from "./dom.js";
import { hide } from "./inspect.js";
import { sampling } from "./settings.js";
import { changed, isRunning, model, name, show, state } from "./state.js";
import { get, save } from "./store.js";

const views = new WeakMap(); // answer -> AnswerView
let editing = null; // the question that is open for editing, with its element: {node, form}
let sticks = true; // whether the end stays in view while the answer grows

const viewOf = (answer) => views.get(answer) ?? views.set(answer, new AnswerView(answer)).get(answer);

/** Puts a question at the end of the chat, or in place of `instead` as a branch beside it. */
export function ask(text, instead = null) {
  const { chat } = state;
  if (!state.stages.length) return notify("The server has not answered yet.");
  const parent = instead ? (chat.nodes[instead.parent] ?? null) : (path(chat).at(-1) ?? null);
  chat.title ||= text.trim().split("\n")[0].slice(0, 60);
  editing = null;
  sticks = true;
  answerTo(chat, add(chat, parent, { role: "user", text }));
  show(chat);
}

/** A new branch of answers to a question, one from each stage on show. */
export function answerTo(chat, question) {
  const node = add(chat, question, { role: "assistant", answers: state.stages.map(newAnswer) });
  for (const answer of node.answers) write(chat, node, answer);
  save(chat);
  changed();
}

export function regenerate() {
  const last = path(state.chat).at(-1);
  if (!last || isRunning()) return false;
  answerTo(state.chat, last.role === "user" ? last : state.chat.nodes[last.parent]);
  return true;
}

export function stop(chat = state.chat) {
  for (const node of Object.values(chat.nodes)) for (const answer of node.answers ?? []) state.running.get(answer)?.abort();
}

async function write(chat, node, answer) {
  const controller = new AbortController();
  state.running.set(answer, controller);
  const logprobs = state.inspect ? { logprobs: true, top_logprobs: 5 } : {};
  const asked = { model: answer.model, messages: messages(chat, node, answer.model), ...sampling(), ...logprobs };
  const start = performance.now();
  let [first, saved] = [0, start];
  try {
    for await (const chunk of api.answer(asked, controller.signal)) {
      if (absorb(answer, chunk)) {
        const now = performance.now();
        first ||= now;
        answer.written = (answer.written ?? 0) + 1;
        Object.assign(answer, { wait: (first - start) / 1000, seconds: (now - first) / 1000 });
        if (now - saved > 1000) keep(chat, (saved = now));
      }
      paintSoon(answer);
    }
    answer.finish ??= "stop";
  } catch (error) {
    if (controller.signal.aborted) answer.finish = "cancelled";
    else answer.error = { message: error.message, retryAt: Date.now() + 1000 * (error.retryAfter ?? 0) };
  }
  state.running.delete(answer);
  chat.updated = Date.now();
  keep(chat);
  if (chat === state.chat) announce(answer.error?.message ?? `${name()} answered: ${plain(answer).slice(0, 500)}`);
  changed();
}

const keep = (chat) => get(chat.id) && save(chat); // a chat that was deleted meanwhile stays deleted

const waiting = new Set();
function paintSoon(answer) {
  if (!waiting.size) requestAnimationFrame(() => {
    for (const one of waiting) viewOf(one).update({ live: state.running.has(one), inspect: state.inspect });
    waiting.clear();
    follow();
  });
  waiting.add(answer);
}

const follow = () => sticks && ($("#log").scrollTop = $("#log").scrollHeight);

/** Starts over with an answer that failed, in its own place. */
function retry(node, answer) {
  const fresh = newAnswer(answer.model);
  node.answers[node.answers.indexOf(answer)] = fresh;
  write(state.chat, node, fresh);
  changed();
}

function edit(node) {
  if (!node || isRunning()) return;
  editing = { node, form: editor(node) };
  changed();
}

/** Opens the last question for editing. */
export const editLast = () => edit(path(state.chat).findLast((node) => node.role === "user"));

export function cancelEdit() {
  if (!editing) return false;
  editing = null;
  changed();
  $("#prompt").focus();
  return true;
}

// ---- Drawing

const keyed = (id, button) => Object.assign(button, { id }); // an id lets focus survive the redraw

function versions(node) {
  const all = siblings(state.chat, node);
  if (all.length < 2) return [];
  const at = all.indexOf(node);
  const go = (step) => () => (choose(state.chat, all[at + step]), save(state.chat), changed());
  // The branch changes under the button, so its id names the place in the chat and not the node.
  const arrow = (step, icon, label) => keyed(`${icon}-${node.parent}`, iconButton(icon, label, go(step), { disabled: !all[at + step] }));
  const count = h("span", { class: "count", "aria-label": `Version ${at + 1} of ${all.length}` }, `${at + 1}/${all.length}`);
  return [h("span", { class: "versions" }, arrow(-1, "left", "Previous version"), count, arrow(1, "right", "Next version"))];
}

function copyButton(id, text) {
  const button = keyed(`copy-${id}`, iconButton("copy", "Copy message", () => copy(text(), button)));
  return button;
}

function questionRow(node) {
  if (node === editing?.node) return h("li", { class: "question" }, editing.form);
  const pencil = keyed(`edit-${node.id}`, iconButton("edit", "Edit message", () => edit(node), { disabled: isRunning() }));
  const tools = [...versions(node), copyButton(node.id, () => node.text), pencil];
  return h("li", { class: "question" }, h("span", { class: "visually-hidden" }, "You: "), h("div", { class: "bubble" }, node.text), h("footer", {}, ...tools));
}

function editor(node) {
  const box = h("textarea", { id: "edit-box", value: node.text, rows: Math.min(8, node.text.split("\n").length + 1), "aria-label": "Edit message" });
  const send = () => box.value.trim() && ask(box.value.trim(), node);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) event.preventDefault(), send();
  });
  const buttons = [h("button", { type: "button", class: "plain", onclick: cancelEdit }, "Cancel"), h("button", { type: "button", class: "solid", onclick: send }, "Send")];
  return h("div", { class: "editor" }, box, h("footer", {}, ...buttons));
}

function problem(node, answer) {
  const button = h("button", { type: "button", class: "solid", onclick: () => retry(node, answer) }, "Retry");
  const tick = () => {
    const seconds = Math.ceil((answer.error.retryAt - Date.now()) / 1000);
    button.disabled = seconds > 0;
    button.textContent = seconds > 0 ? `Retry in ${seconds} s` : "Retry";
    if (seconds > 0) setTimeout(tick, 250);
  };
  tick();
  return h("div", { class: "problem", role: "alert" }, h("p", {}, answer.error.message), button);
}

function answerRow(node, isLast) {
  const lanes = node.answers.map((answer, index) => {
    const view = viewOf(answer);
    const live = state.running.has(answer);
    view.update({ live, inspect: state.inspect, isLast });
    const label = node.answers.length > 1 && h("h3", {}, answer.model);
    const tools = live ? [] : [copyButton(`${node.id}-${index}`, () => plain(answer)), ...(index === 0 ? [again(node)] : [])];
    const footer = h("footer", {}, ...(index === 0 ? versions(node) : []), ...tools, view.figures);
    return h("div", { class: "lane" }, label, view.body, view.note, answer.error && problem(node, answer), footer);
  });
  return h("li", { class: `answer${isLast ? " last" : ""}` }, h("span", { class: "visually-hidden" }, `${name()}: `), h("div", { class: "lanes" }, ...lanes));
}

const again = (node) =>
  keyed(`again-${node.parent}`, iconButton("again", "Ask again", () => answerTo(state.chat, state.chat.nodes[node.parent]), { disabled: isRunning() }));

function firstScreen() {
  const stage = model(state.stages[0]);
  $("#first").hidden = Object.keys(state.chat.nodes).length > 0;
  $("#first-error").hidden = !state.error;
  $("#first-error p").textContent = state.error ?? "";
  $("#greeting").textContent = stage?.name ? `Hello, I’m ${stage.name}.` : "Hello.";
  const cards = (stage?.suggestions ?? []).slice(0, 4).map((text) => h("button", { type: "button", onclick: () => ask(text) }, text));
  $("#suggestions").replaceChildren(...cards);
}

/** Tokens left, after the last answer that counted them. */
function context() {
  const stage = model(state.stages[0]);
  const used = path(state.chat).flatMap((node) => (node.answers ? [laneOf(node, stage?.id).usage?.total_tokens ?? 0] : [])).findLast(Boolean) ?? 0;
  const total = stage?.context_tokens ?? 0;
  $("#context").hidden = !total;
  $("#context meter").max = total || 1;
  $("#context meter").value = Math.min(used, total);
  $("#context span").textContent = `${Math.max(0, total - used).toLocaleString("en")} of ${total.toLocaleString("en")} tokens left`;
}

export function draw() {
  const nodes = path(state.chat);
  const focused = document.activeElement?.id;
  const wasEditing = $("#edit-box") !== null;
  const rows = nodes.map((node, index) => (node.role === "user" ? questionRow(node) : answerRow(node, index === nodes.length - 1)));
  hide();
  $("#turns").replaceChildren(...rows);
  firstScreen();
  context();
  if (editing && !wasEditing) $("#edit-box")?.focus();
  else if (focused && document.activeElement?.id !== focused)
    (document.getElementById(focused) ?? $("#prompt")).focus({ preventScroll: true });
  follow();
}

export function mount() {
  const log = $("#log");
  log.addEventListener("scroll", () => {
    sticks = log.scrollHeight - log.scrollTop - log.clientHeight < 48;
    $("#to-end").hidden = sticks;
    hide();
  });
  $("#to-end").addEventListener("click", () => ((sticks = true), follow()));
  return draw;
}
