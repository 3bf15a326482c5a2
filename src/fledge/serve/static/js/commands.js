// Slash commands: a table of name, argument, what it does; run() gives the line to show.

import * as chat from "./chat.js";
import { newChat } from "./conversation.js";
import { $, dialog, html } from "./dom.js";
import * as settings from "./settings.js";
import { model, remember, show, state } from "./state.js";

const COMMANDS = [
  { name: "help", about: "Commands and keys.", run: () => $("#help").showModal() },
  { name: "new", about: "Begin a new conversation.", run: () => show(newChat()) },
  { name: "clear", about: "The same as /new.", run: () => show(newChat()) },
  { name: "retry", about: "Answer the last question again.", run: () => (chat.regenerate() ? "" : "There is nothing to answer again.") },
  { name: "system", argument: "text", about: "Instructions for this conversation.", run: settings.setSystem },
  { name: "stage", argument: "name", about: "Which stage of the run answers.", run: (name) => choose(name) },
  { name: "compare", argument: "name", about: "Put each question to a second stage as well.", run: (name) => choose(state.stages[0], name) },
  { name: "inspect", about: "Show how likely each token was.", run: () => remember("inspect", !state.inspect) },
];

function choose(...names) {
  const missing = names.find((name) => !model(name));
  if (missing) throw new Error(`There is no stage “${missing}”. This run has ${state.models.map(({ id }) => id).join(", ")}.`);
  remember("stages", names);
  return names.length > 1 ? `${names.join(" and ")} answer side by side.` : `${names[0]} answers from now on.`;
}

const sampling = (field) => ({
  name: field.name.replaceAll("_", "-"),
  argument: "number",
  about: field.help,
  run(text) {
    const wrong = text && settings.set(field, text);
    if (wrong) throw new Error(wrong);
    return `${settings.label(field)} is ${settings.current(field) ?? "the default"}.`;
  },
});

const known = () => [...COMMANDS, ...settings.fields().map(sampling)];

export const matching = (text) => (/^\/[a-z-]*$/.test(text) ? known().filter(({ name }) => `/${name}`.startsWith(text)) : []);

/** Runs "/name argument" and returns what to say about it. Throws Error with the reason where it cannot. */
export function run(text) {
  const [, name, argument] = /^\/(\S*)\s*([\s\S]*)$/.exec(text);
  const command = known().find((command) => command.name === name);
  if (!command) throw new Error(`There is no command /${name}. /help lists them.`);
  return command.run(argument.trim());
}

export const help = () => dialog("help", "Help", html`
  <h3>Keys</h3>
  <dl>
    <dt><kbd>Enter</kbd></dt><dd>Send the message.</dd>
    <dt><kbd>Shift</kbd> <kbd>Enter</kbd></dt><dd>A new line.</dd>
    <dt><kbd>↑</kbd></dt><dd>In the empty box: edit the last message.</dd>
    <dt><kbd>Esc</kbd></dt><dd>Stop the answer, or close what is open.</dd>
    <dt><kbd>Ctrl</kbd> <kbd>K</kbd></dt><dd>Search the conversations.</dd>
    <dt><kbd>Ctrl</kbd> <kbd>Shift</kbd> <kbd>O</kbd></dt><dd>A new conversation.</dd>
    <dt><kbd>←</kbd> <kbd>→</kbd></dt><dd>In the inspect view: from token to token.</dd>
  </dl>
  <h3>Commands</h3>
  <dl>${known().map(({ name, argument, about }) => html`<dt><code>/${name} ${argument}</code></dt><dd>${about}</dd>`)}</dl>`);
