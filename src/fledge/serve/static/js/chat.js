// The conversation on show: asks, streams, stops, asks again, edits, and moves between branches.

import * as api from "./api.js";
import { body, figures, note } from "./answer.js";
import { absorb, add, choose, laneOf, messages, newAnswer, path, plain, siblings } from "./conversation.js";
import { $, announce, askForLines, copyButton, html, icon, iconButton, keyed, nothing, notify, problem } from "./dom.js";
import { hide } from "./inspect.js";
import { sampling } from "./settings.js";
import { list } from "./stages.js";
import { changed, isRunning, model, name, show, state } from "./state.js";
import { get, save } from "./store.js";

let sticks = true; // whether the end stays in view while the answer grows

/** Puts a question at the end of the chat, or in place of `instead` as a branch beside it; returns whether it could be asked. */
export function ask(text, instead = null) {
  const { chat } = state;
  if (!state.models.length) return notify("The server has not answered yet.");
  const parent = instead ? (chat.nodes[instead.parent] ?? null) : (path(chat).at(-1) ?? null);
  chat.title ||= text.trim().split("\n")[0].slice(0, 60);
  sticks = true;
  answerTo(chat, add(chat, parent, { role: "user", text }));
  show(chat);
  if (instead) $("#prompt").focus();
  return true;
}

/** A new branch of answers to a question, of which `fresh` are to be written: from each stage on show, unless they are given. */
function answerTo(chat, question, answers = state.stages.map(newAnswer), fresh = answers) {
  const node = add(chat, question, { role: "assistant", answers });
  for (const answer of fresh) write(chat, node, answer);
  save(chat);
  changed();
}

const replaced = (node, answer, other) => node.answers.map((each) => (each === answer ? other : each));
const question = (node) => state.chat.nodes[node.parent];

/** Starts over with an answer that failed: in its own place, or on a branch where something had come. */
function retry(node, answer) {
  const fresh = newAnswer(answer.model);
  if (answer.parts.length) return answerTo(state.chat, question(node), replaced(node, answer, fresh), [fresh]);
  node.answers = replaced(node, answer, fresh);
  write(state.chat, node, fresh);
  changed();
}

/** Puts an answer in other words on a branch: to be gone on with, or learned from. */
async function correct(node, answer) {
  const texts = await askForLines("Edit answer", answer.parts.map((part) => part.text));
  if (!texts) return;
  const parts = answer.parts.map((part, place) => ({ ...part, text: texts[place], tokens: [] })).filter((part) => part.text);
  answerTo(state.chat, question(node), replaced(node, answer, { ...newAnswer(answer.model), parts, finish: "stop" }), []);
}

/** Lets the model go on with an answer that was stopped, cut or edited. */
function goOn(node, answer) {
  const last = answer.parts.at(-1);
  last.tokens = state.inspect ? [[last.text, null, []]] : []; // what is given has no probability
  Object.assign(answer, { finish: null, error: null, written: 0 });
  sticks = true;
  write(state.chat, node, answer);
  changed();
}

export function stop(chat = state.chat) {
  for (const running of state.running.values()) if (running.chat === chat) running.controller.abort();
}

async function write(chat, node, answer) {
  const controller = new AbortController();
  state.running.set(answer, { chat, controller });
  const logprobs = state.inspect ? { logprobs: true, top_logprobs: 5 } : {};
  const nodes = path(chat);
  const before = nodes.slice(0, nodes.indexOf(node) + Boolean(answer.parts.length)); // what is begun is the last message
  const asked = { model: answer.model, messages: messages(chat, before, { model: answer.model }), ...sampling(), ...logprobs };
  const start = performance.now();
  let [first, saved] = [0, start];
  try {
    for await (const chunk of api.answer(asked, controller.signal)) {
      if (absorb(answer, chunk)) {
        const now = performance.now();
        first ||= now;
        answer.written = (answer.written ?? 0) + 1;
        Object.assign(answer, { wait: (first - start) / 1000, seconds: (now - first) / 1000 });
        if (now - saved > 1000) keep(chat, node, (saved = now));
      }
      changed();
    }
    answer.finish ??= "stop";
  } catch (error) {
    if (controller.signal.aborted) answer.finish = "cancelled";
    else answer.error = { message: error.message };
  }
  state.running.delete(answer);
  keep(chat, node);
  if (chat === state.chat) announce(answer.error?.message ?? `${name()} answered: ${plain(answer).slice(0, 500)}`);
  changed();
}

function keep(chat, node) {
  chat.updated = node.updated = Date.now();
  if (get(chat.id)) save(chat); // what was deleted meanwhile stays deleted
}

async function edit(node) {
  if (!node || isRunning()) return;
  const texts = await askForLines("Edit message", [node.text]);
  if (texts?.[0].trim()) ask(texts[0].trim(), node);
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
    <div class="bubble" dir="auto">${node.text}</div>
    <footer>
      ${versions(node)} ${copyButton("Copy message", () => node.text)}
      ${iconButton("edit", "Edit message", () => edit(node), { disabled: isRunning() })}
    </footer>
  </li>`;

function answerRow(node, isLast) {
  const disabled = isRunning();
  const tools = (answer, index) => html`
    ${copyButton("Copy message", () => plain(answer))}
    ${index ? nothing : iconButton("again", "Ask again", () => answerTo(state.chat, question(node)), { disabled })}
    ${answer.parts.length ? iconButton("edit", "Edit answer", () => correct(node, answer), { disabled }) : nothing}
    ${answer.parts.length && isLast ? iconButton("onward", "Continue answer", () => goOn(node, answer), { disabled }) : nothing}`;
  const lane = (answer, index) => html`
    <div class="lane">
      ${node.answers.length > 1 ? html`<h2>${answer.model}</h2>` : nothing}
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
  const used = usages.length ? usages.findLast(Boolean)?.total_tokens : 0;
  const all = `${total.toLocaleString("en")} tokens`;
  const left = used === undefined ? `Room for ${all}` : `${Math.max(0, total - used).toLocaleString("en")} of ${all} left`;
  return html`<span id="context"><progress max=${total} value=${used ?? 0} aria-label="Context used"></progress>${left}</span>`;
}

export const toEnd = () => (sticks ? nothing : iconButton("down", "To the end", () => follow((sticks = true)), { id: "to-end" }));
export function follow() {
  if (sticks && path(state.chat).length) $("#log").scrollTop = $("#log").scrollHeight;
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
      ${nodes.length ? html`<h1 class="visually-hidden">${state.chat.title}</h1>` : firstScreen()}
      <ol id="turns">${nodes.map(row)}</ol>
      ${nodes.length ? suggestions(nodes) : nothing}
    </section>`;
}
