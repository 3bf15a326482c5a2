// A conversation is a tree: editing a question or asking again adds a branch beside the old one, nothing is lost.
//
//   chat   {id, title, created, updated, system, nodes: {id: node}, chosen: {parent id: id of the child shown}}
//   node   {id, parent, updated, role: "user", text}  or  {id, parent, updated, role: "assistant", answers: [answer, perhaps a second]}
//   answer {model, parts: [{type: text|python|output, text, tokens}], finish, error, usage, wait, seconds, dropped}
// Two answers in one node are two stages side by side, each with its own memory of what it said before.

const ROOT = "root";
const newId = () => Date.now().toString(36) + Math.random().toString(36).slice(2, 10);

export const newChat = (system = "") => {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, system, nodes: {}, chosen: {} };
};
export const newAnswer = (model) => ({ model, parts: [], finish: null, error: null, usage: null, wait: 0, seconds: 0, dropped: 0 });

export const siblings = (chat, node) => Object.values(chat.nodes).filter((other) => other.parent === node.parent);

/** Adds a branch below `parent` (null: at the start) and shows it. */
export function add(chat, parent, fields) {
  const node = { id: newId(), parent: parent?.id ?? ROOT, updated: Date.now(), ...fields };
  chat.nodes[node.id] = node;
  chat.updated = Date.now();
  choose(chat, node);
  return node;
}
export const choose = (chat, node) => (chat.chosen[node.parent] = node.id);

/** The nodes on show, first to last. */
export function path(chat) {
  const nodes = [];
  for (let node = chat.nodes[chat.chosen[ROOT]]; node; node = chat.nodes[chat.chosen[node.id]]) nodes.push(node);
  return nodes;
}

export const plain = (answer) => answer.parts.filter((part) => part.type === "text").map((part) => part.text).join("");
export const laneOf = (node, model) => node.answers.find((answer) => answer.model === model) ?? node.answers[0];

/** Takes in what another tab or a file knows of a chat: what is new there, or was changed later. */
export function merge(chat, other) {
  for (const [id, node] of Object.entries(other.nodes))
    if (!chat.nodes[id] || chat.nodes[id].updated < node.updated) chat.nodes[id] = node;
  chat.chosen = { ...other.chosen, ...chat.chosen };
  chat.updated = Math.max(chat.updated, other.updated);
}

/** What was said at `nodes` as messages: of two answers that by `model`, and no question that got none. */
export function messages(chat, nodes, { model, weighs = false } = {}) {
  const said = chat.system.trim() ? [{ role: "system", content: chat.system.trim() }] : [];
  for (const { text, answers } of nodes) {
    const answer = answers && laneOf({ answers }, model);
    const parts = answer?.parts.filter((part) => part.text).map(({ type, text }) => ({ type, text }));
    // An answer that did not end by itself is no example of how to end: weight 0 is read and not learned.
    const weight = weighs && answer?.finish !== "stop" && { weight: 0 };
    if (!answers) said.push({ role: "user", content: text });
    else if (!parts.length) said.pop();
    else said.push({ role: "assistant", content: parts.every((part) => part.type === "text") ? plain({ parts }) : parts, ...weight });
  }
  return said;
}

/** A line of a file that this page, `fledge chat` and `fledge sft --data` read: what is on show as messages, the whole tree beside it. */
export function record(chat) {
  const said = messages(chat, path(chat), { weighs: true });
  if (!said.some(({ role }) => role === "assistant")) said.push({ role: "user", content: chat.title });
  return JSON.stringify({ messages: said, chat }, (key, value) => (key === "tokens" ? undefined : value));
}

const FENCES = { python: "```python\n", output: "```\n" };

/** What is on show, to be read. */
export function markdown(chat, name) {
  const part = ({ type, text }) => (type === "text" ? text : `\n\n${FENCES[type]}${text.trimEnd()}\n\`\`\`\n\n`);
  const answer = ({ model, parts }) => `**${name}** (${model}):\n\n${parts.map(part).join("").trim()}`;
  const said = path(chat).flatMap(({ text, answers }) => (answers ? answers.map(answer) : `**You:**\n\n${text}`));
  return [`# ${chat.title}`, ...(chat.system ? [`> ${chat.system.replaceAll("\n", "\n> ")}`] : []), ...said, ""].join("\n\n");
}

/** Takes one chunk of the stream into an answer. Returns whether it brought something the model wrote. */
export function absorb(answer, chunk) {
  if (chunk.usage) answer.usage = chunk.usage;
  if (chunk.fledge?.dropped_turns) answer.dropped = chunk.fledge.dropped_turns;
  const choice = chunk.choices?.[0];
  if (!choice) return false;
  const { content, fledge } = choice.delta ?? {};
  const append = (type, text) => {
    if (answer.parts.at(-1)?.type !== type) answer.parts.push({ type, text: "", tokens: [] });
    answer.parts.at(-1).text += text;
  };
  if (content) append("text", content);
  // Prose is the content too, which foreign servers alone have.
  for (const part of fledge?.parts ?? []) if (part.type !== "text") append(part.type, part.text ?? "");
  const tokens = choice.logprobs?.content ?? [];
  if (tokens.length && !answer.parts.length) append("text", "");
  for (const { token, logprob, top_logprobs: top } of tokens)
    answer.parts.at(-1).tokens.push([token, logprob, (top ?? []).map((other) => [other.token, other.logprob])]);
  if (choice.finish_reason) answer.finish = choice.fledge?.finish ?? choice.finish_reason;
  return Boolean(content || fledge || tokens.length);
}

const text = (value) => (typeof value === "string" ? value : "");
const isId = (id) => /^[a-z0-9][\w-]{0,63}$/i.test(text(id));

/** A chat of nothing but messages, as other programs write them. Its id comes of what is said, so that it is imported once. */
function grown({ messages, title }) {
  if (!Array.isArray(messages) || !messages.length) throw new Error("no conversation is in it");
  let number = 0n;
  for (const letter of JSON.stringify(messages)) number = BigInt.asUintN(64, (number ^ BigInt(letter.codePointAt(0))) * 0x100000001b3n + 1n);
  const id = number.toString(36);
  const chat = { id, title: text(title), system: "", nodes: {}, chosen: {} };
  let parent = ROOT;
  for (const [place, { role, content }] of messages.entries()) {
    const parts = Array.isArray(content) ? content : [{ type: "text", text: content }];
    if (role === "system") chat.system = text(content);
    else if (role === "user" || role === "assistant") {
      const said = role === "user" ? { text: plain({ parts }) } : { answers: [{ parts }] };
      chat.title ||= text(said.text).trim().split("\n")[0].slice(0, 60);
      chat.nodes[`${id}-${place}`] = { parent, role, ...said };
      parent = chat.chosen[parent] = `${id}-${place}`;
    } else throw new Error(`a message is by ${role}; expected are system, user and assistant`);
  }
  return chat;
}

/** A chat read from a line of a file, field by field. Throws where it is not one. */
export function revive(record) {
  const found = record.chat ?? grown(record);
  const part = ({ type, text: said }) => ({ type: ["python", "output"].includes(type) ? type : "text", text: text(said), tokens: [] });
  const answer = ({ model, finish, parts }) => ({ ...newAnswer(text(model)), finish: text(finish) || "stop", parts: parts.map(part) });
  const node = ([id, { parent, role, text: said, answers, updated }]) => {
    if (parent !== ROOT && !Object.hasOwn(found.nodes, parent)) throw new Error("a message answers one that is not in the file");
    const content = role === "assistant" ? { role, answers: answers.slice(0, 2).map(answer) } : { role: "user", text: text(said) };
    return [id, { id, parent, updated: Number(updated) || 0, ...content }];
  };
  const nodes = Object.fromEntries(Object.entries(found.nodes).filter(([id]) => isId(id)).map(node));
  // A choice that is no child of its node could lead round in a circle.
  const chosen = Object.entries(found.chosen ?? {}).filter(([parent, child]) => Object.hasOwn(nodes, child) && nodes[child].parent === parent);
  const created = Number(found.created) || Date.now();
  const about = { title: text(found.title), created, updated: Number(found.updated) || created, system: text(found.system) };
  return { ...newChat(), ...(isId(found.id) && { id: found.id }), ...about, nodes, chosen: Object.fromEntries(chosen) };
}
