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
export function path(chat, last = null) {
  const nodes = [];
  if (last) {
    for (let node = last; node; node = chat.nodes[node.parent]) nodes.unshift(node);
    return nodes;
  }
  for (let node = chat.nodes[chat.chosen[ROOT]]; node; node = chat.nodes[chat.chosen[node.id]]) nodes.push(node);
  return nodes;
}

export const plain = (answer) => answer.parts.filter((part) => part.type === "text").map((part) => part.text).join("");
export const laneOf = (node, model) => node.answers.find((answer) => answer.model === model) ?? node.answers[0];

/** What the API needs to hear before `model` answers at `node`: its own answers, and no question that got none. */
export function messages(chat, node, model) {
  const said = chat.system.trim() ? [{ role: "system", content: chat.system.trim() }] : [];
  for (const step of path(chat, chat.nodes[node.parent])) {
    if (step.role === "user") {
      said.push({ role: "user", content: step.text });
      continue;
    }
    const parts = laneOf(step, model).parts.filter((part) => part.text).map(({ type, text }) => ({ type, text }));
    if (!parts.length) said.pop();
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

/** A chat read from a file, field by field. Throws where it is not one. */
export function revive(found) {
  const text = (value) => (typeof value === "string" ? value : "");
  const chat = { ...newChat(text(found.system)), title: text(found.title) };
  chat.created = Number(found.created) || chat.created;
  chat.updated = Number(found.updated) || chat.updated;
  const known = new Map([[ROOT, ROOT]]);
  for (const id of Object.keys(found.nodes)) known.set(id, newId());
  for (const [id, node] of Object.entries(found.nodes)) {
    if (!known.has(node.parent)) throw new Error("a message answers one that is not in the file");
    const kept = { id: known.get(id), parent: known.get(node.parent), role: node.role === "assistant" ? "assistant" : "user" };
    if (kept.role === "user") kept.text = text(node.text);
    else kept.answers = node.answers.slice(0, 2).map((answer) => ({
      ...newAnswer(text(answer.model)),
      finish: text(answer.finish) || "stop",
      parts: answer.parts.map((part) => ({ type: part.type === "python" || part.type === "output" ? part.type : "text", text: text(part.text), tokens: [] })),
    }));
    chat.nodes[kept.id] = kept;
  }
  for (const [parent, child] of Object.entries(found.chosen ?? {})) {
    const shown = chat.nodes[known.get(child)];
    if (shown?.parent === known.get(parent)) choose(chat, shown); // anything else could lead round in a circle
  }
  return chat;
}
