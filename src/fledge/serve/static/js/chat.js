// The conversation on show: asks, streams, stops, asks again, edits, and moves between branches.

import * as api from "./api.js";
import { body, figures, note } from "./answer.js";
import { absorb, add, choose, laneOf, messages, newAnswer, path, plain, siblings } from "./conversation.js";
import { $, announce, askFor, copyButton, html, icon, iconButton, keyed, nothing, notify, problem } from "./dom.js";
import { hide } from "./inspect.js";
import { sampling } from "./settings.js";
import { list } from "./stages.js";
import { changed, isRunning, model, name, show, state } from "./state.js";
import { get, save } from "./store.js";

let sticks = true; // whether the end stays in view while the answer grows

/** Puts a question at the end of the chat, or in place of `instead` as a branch beside it. */
export function ask(text, instead = null) {
  const { chat } = state;
  if (!state.models.length) return notify("The server has not answered yet.");
  const parent = instead ? (chat.nodes[instead.parent] ?? null) : (path(chat).at(-1) ?? null);
  chat.title ||= text.trim().split("\n")[0].slice(0, 60);
  sticks = true;
  answerTo(chat, add(chat, parent, { role: "user", text }));
  show(chat);
  if (instead) $("#prompt").focus();
}

/** A new branch of answers to a question, one from each stage on show. */
function answerTo(chat, question) {
  const node = add(chat, question, { role: "assistant", answers: state.stages.map(newAnswer) });
  for (const answer of node.answers) write(chat, node, answer);
  save(chat);
  changed();
}

/** Starts over with an answer that failed, in its own place. */
function retry(node, answer) {
  const fresh = newAnswer(answer.model);
  node.answers[node.answers.indexOf(answer)] = fresh;
  write(state.chat, node, fresh);
  changed();
}

export function stop(chat = state.chat) {
  for (const running of state.running.values()) if (running.chat === chat) running.controller.abort();
}

async function write(chat, node, answer) {
  const controller = new AbortController();
  state.running.set(answer, { chat, controller });
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
      changed();
    }
    answer.finish ??= "stop";
  } catch (error) {
    if (controller.signal.aborted) answer.finish = "cancelled";
    else answer.error = { message: error.message };
  }
  state.running.delete(answer);
  chat.updated = Date.now();
  keep(chat);
  if (chat === state.chat) announce(answer.error?.message ?? `${name()} answered: ${plain(answer).slice(0, 500)}`);
  changed();
}

const keep = (chat) => get(chat.id) && save(chat); // a chat that was deleted meanwhile stays deleted

async function edit(node) {
  if (!node || isRunning()) return;
  const text = await askFor("Edit message", { value: node.text, rows: Math.min(8, node.text.split("\n").length + 1) });
  if (text) ask(text, node);
}

/** Opens the last question for editing. */
export const editLast = () => edit(path(state.chat).findLast((node) => node.role === "user"));

// ---- Drawing

function versions(node) {
  const all = siblings(state.chat, node);
  if (all.length < 2) return nothing;
  const at = all.indexOf(node);
  const go = (step) => () => (choose(state.chat, all[at + step]), save(state.chat), changed());
  const arrow = (step, icon, label) => iconButton(icon, label, go(step), { disabled: !all[at + step] });
  return html`
    <span class="versions">
      ${arrow(-1, "left", "Previous version")}
      <span class="count" aria-label="Version ${at + 1} of ${all.length}">${at + 1}/${all.length}</span>
      ${arrow(1, "right", "Next version")}
    </span>`;
}

const questionRow = (node) => html`
  <li class="question">
    <span class="visually-hidden">You: </span>
    <div class="bubble">${node.text}</div>
    <footer>
      ${versions(node)} ${copyButton("Copy message", () => node.text)}
      ${iconButton("edit", "Edit message", () => edit(node), { disabled: isRunning() })}
    </footer>
  </li>`;

function answerRow(node, isLast) {
  const again = () => answerTo(state.chat, state.chat.nodes[node.parent]);
  const tools = (answer, index) => html`
    ${copyButton("Copy message", () => plain(answer))}
    ${index ? nothing : iconButton("again", "Ask again", again, { disabled: isRunning() })}`;
  const lane = (answer, index) => html`
    <div class="lane">
      ${node.answers.length > 1 ? html`<h3>${answer.model}</h3>` : nothing}
      ${keyed(answer, body(answer))} ${note(answer, isLast)} ${answer.error ? problem(answer.error.message, () => retry(node, answer)) : nothing}
      <footer>
        ${index ? nothing : versions(node)} ${state.running.has(answer) ? nothing : tools(answer, index)}
        <span class="figures">${figures(answer)}</span>
      </footer>
    </div>`;
  return html`
    <li class="answer ${isLast ? "last" : ""}">
      <span class="visually-hidden">${name()}: </span>
      <div class="lanes">${node.answers.map(lane)}</div>
    </li>`;
}

/** What may be asked next: the next turn of each proposed conversation that began as this one did. */
function suggestions(nodes) {
  const asked = nodes.filter((node) => node.role === "user").map((node) => node.text);
  const goesOn = (turns) => turns.length > asked.length && asked.every((text, turn) => text === turns[turn]);
  const next = (model(state.stages[0])?.suggestions ?? []).filter(goesOn).map((turns) => turns[asked.length]);
  const card = (text) => html`<button type="button" @click=${() => ask(text)}>${text}</button>`;
  return html`<div class="suggestions">${isRunning() ? nothing : [...new Set(next)].map(card)}</div>`;
}

function firstScreen() {
  const stage = model(state.stages[0]);
  return html`
    <div id="first">
      ${icon("feather")}
      <h1 id="greeting">${stage?.name ? `Hello, I’m ${stage.name}.` : "Hello."}</h1>
      <p>A small language model, raised from scratch. It knows what it has read, and it makes mistakes.</p>
      ${state.error ? problem(state.error, list) : nothing}
      ${suggestions([])}
    </div>`;
}

/** Tokens left, after the last answer that counted them. */
export function context() {
  const stage = model(state.stages[0]);
  if (!stage?.context_tokens) return nothing;
  const total = stage.context_tokens;
  const usages = path(state.chat).map(({ answers }) => answers && laneOf({ answers }, stage.id).usage);
  const used = usages.findLast(Boolean)?.total_tokens ?? 0;
  const left = `${Math.max(0, total - used).toLocaleString("en")} of ${total.toLocaleString("en")} tokens left`;
  return html`<span id="context"><progress max=${total} value=${used} aria-label="Context used"></progress>${left}</span>`;
}

export const toEnd = () => (sticks ? nothing : iconButton("down", "To the end", () => follow((sticks = true)), { id: "to-end" }));
export function follow() {
  if (sticks) $("#log").scrollTop = $("#log").scrollHeight;
}

function onScroll({ target: log }) {
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 48;
  hide();
  if (isAtEnd === sticks) return;
  sticks = isAtEnd;
  changed();
}

export function view() {
  const nodes = path(state.chat);
  const row = (node, index) => (node.role === "user" ? questionRow(node) : answerRow(node, index === nodes.length - 1));
  return html`
    <section id="log" aria-label="Messages" tabindex="0" @scroll=${onScroll}>
      ${nodes.length ? nothing : firstScreen()}
      <ol id="turns">${nodes.map(row)}</ol>
      ${nodes.length ? suggestions(nodes) : nothing}
    </section>`;
}
