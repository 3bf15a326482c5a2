// Slash commands: a table of name, argument, what it does; run() gives the line to show.

import * as chat from "./chat.js";
import { $, h } from "./dom.js";
import * as settings from "./settings.js";
import { setInspect, setStages, show, state } from "./state.js";
import { newChat } from "./conversation.js";

/** Opens the help, with the commands there are now. */
export function help() {
  const usage = ({ name, argument }) => h("dt", {}, h("code", {}, `/${name}${argument ? ` ${argument}` : ""}`));
  $("#help-commands").replaceChildren(...known().flatMap((command) => [usage(command), h("dd", {}, command.about)]));
  $("#help").showModal();
}

const fresh = () => (show(newChat()), "A new conversation. The last one stays in the list.");

function stageNamed(text) {
  const found = state.models.find((model) => model.id === text);
  if (!found) throw new Error(`There is no stage “${text}”. This run has ${state.models.map((model) => model.id).join(", ")}.`);
  return found.id;
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

const COMMANDS = [
  { name: "help", about: "Commands and keys.", run: help },
  { name: "new", about: "Begin a new conversation.", run: fresh },
  { name: "clear", about: "The same as /new.", run: fresh },
  { name: "retry", about: "Answer the last question again.", run: () => (chat.regenerate() ? "" : "There is nothing to answer again.") },
  { name: "system", argument: "text", about: "Instructions for this conversation.", run: (text) => (settings.setSystem(text), text ? "The system prompt is set." : "No system prompt.") },
  { name: "stage", argument: "name", about: "Which stage of the run answers.", run: (text) => (setStages([stageNamed(text)]), `${text} answers from now on.`) },
  { name: "compare", argument: "name", about: "Put each question to a second stage as well.", run: (text) => (setStages([state.stages[0], stageNamed(text)]), `${state.stages.join(" and ")} answer side by side.`) },
  { name: "inspect", about: "Show how likely each token was.", run: () => (setInspect(!state.inspect), state.inspect ? "New answers show their probabilities." : "Answers are text again.") },
];
const known = () => [...COMMANDS, ...settings.fields().map(sampling)];

export const matching = (text) => (/^\/[a-z-]*$/.test(text) ? known().filter((command) => `/${command.name}`.startsWith(text)) : []);

/** Runs "/name argument" and returns what to say about it. Throws Error with the reason where it cannot. */
export function run(text) {
  const [, name, argument] = /^\/(\S*)\s*([\s\S]*)$/.exec(text);
  const command = known().find((command) => command.name === name);
  if (!command) throw new Error(`There is no command /${name}. /help lists them.`);
  return command.run(argument.trim());
}
