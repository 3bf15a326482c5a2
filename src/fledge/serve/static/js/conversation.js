// A conversation is a tree: editing a question or asking again adds a branch beside the old one, nothing is lost.
//
//   chat   {id, title, created, updated, system, nodes: {id: node}, chosen: {parent id: id of the child shown}}
//   node   {id, parent, role: "user", text}  or  {id, parent, role: "assistant", answers: [answer, perhaps a second]}
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
  const node = { id: newId(), parent: parent?.id ?? ROOT, ...fields };
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

/** What the API needs to hear before `model` answers at `node`, which is on show: its own answers, and no question that got none. */
export function messages(chat, node, model) {
  const said = chat.system.trim() ? [{ role: "system", content: chat.system.trim() }] : [];
  const nodes = path(chat);
  for (const { text, answers } of nodes.slice(0, nodes.indexOf(node))) {
    const parts = answers && laneOf({ answers }, model).parts.filter((part) => part.text).map(({ type, text }) => ({ type, text }));
    if (!answers) said.push({ role: "user", content: text });
    else if (!parts.length) said.pop();
    else said.push({ role: "assistant", content: parts.every((part) => part.type === "text") ? plain({ parts }) : parts });
  }
  return said;
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
  if (fledge?.part) append(fledge.part, fledge.text ?? "");
  const tokens = choice.logprobs?.content ?? [];
  if (tokens.length && !answer.parts.length) append("text", "");
  for (const { token, logprob, top_logprobs: top } of tokens)
    answer.parts.at(-1).tokens.push([token, logprob, (top ?? []).map((other) => [other.token, other.logprob])]);
  if (choice.finish_reason) answer.finish = choice.finish_reason;
  return Boolean(content || fledge || tokens.length);
}

/** A chat read from a file, field by field, under a new id. Throws where it is not one. */
export function revive(found) {
  const text = (value) => (typeof value === "string" ? value : "");
  const part = ({ type, text: said }) => ({ type: ["python", "output"].includes(type) ? type : "text", text: text(said), tokens: [] });
  const answer = ({ model, finish, parts }) => ({ ...newAnswer(text(model)), finish: text(finish) || "stop", parts: parts.map(part) });
  const node = ([id, { parent, role, text: said, answers }]) => {
    if (parent !== ROOT && !Object.hasOwn(found.nodes, parent)) throw new Error("a message answers one that is not in the file");
    const content = role === "assistant" ? { role, answers: answers.slice(0, 2).map(answer) } : { role: "user", text: text(said) };
    return [id, { id, parent, ...content }];
  };
  const nodes = Object.fromEntries(Object.entries(found.nodes).map(node));
  // A choice that is no child of its node could lead round in a circle.
  const chosen = Object.entries(found.chosen ?? {}).filter(([parent, child]) => Object.hasOwn(nodes, child) && nodes[child].parent === parent);
  const created = Number(found.created) || Date.now();
  const about = { title: text(found.title), created, updated: Number(found.updated) || created, system: text(found.system) };
  return { ...newChat(), ...about, nodes, chosen: Object.fromEntries(chosen) };
}
