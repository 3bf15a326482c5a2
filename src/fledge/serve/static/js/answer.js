// One answer on the page: prose, tool calls as folds, notes and figures. Elements stay the same while it grows.

import { h, icon } from "./dom.js";
import { showTokens, surprise } from "./inspect.js";
import { codeBlock, render } from "./markdown.js";

const NOTES = {
  null: "This answer was interrupted.",
  length: "It ran out of room: the token limit or the end of the context.",
  cancelled: "You stopped this answer.",
  tool_error: "The answer ended because a tool call went wrong.",
};

const left = (turns) => (turns === 1 ? "1 earlier turn no longer fits and was left out." : `${turns} earlier turns no longer fit and were left out.`);

export class AnswerView {
  constructor(answer) {
    this.answer = answer;
    this.body = h("div", { class: "body" });
    this.note = h("p", { class: "note", hidden: true });
    this.figures = h("span", { class: "figures" });
  }

  /** Brings the page in line with the answer. `live`: it is still being written. `inspect`: as tokens. */
  update({ live, inspect, isLast = false }) {
    const { answer, body } = this;
    if (this.inspect !== inspect) body.replaceChildren();
    this.inspect = inspect;
    body.classList.toggle("live", live);
    body.classList.toggle("waiting", live && !answer.parts.length);
    const groups = grouped(answer.parts);
    // A calculation amid a sentence stays in the line.
    body.classList.toggle("sentence", groups.length > 1 && answer.parts.every((part) => !part.text.includes("\n")));
    groups.forEach((group, index) => {
      if (!body.children[index]) body.append(group.text ? h("div", { class: "prose" }) : tool());
      const element = body.children[index];
      if (!group.text) showTool(element, group, { inspect, live });
      else if (inspect && group.text.tokens?.length) showTokens((element.className = "tokens", element), group.text.tokens);
      else render(element, group.text.text, live && index === groups.length - 1);
    });
    const notes = [!live && !answer.error && NOTES[answer.finish], answer.dropped && left(answer.dropped)];
    if (!live && answer.finish === "stop" && !answer.parts.length) notes.push("The answer is empty: the model ended it at once.");
    if (inspect && !live && isLast && answer.parts.length && surprise(answer) === null) notes.push("Written without probabilities: ask again to see them.");
    this.note.textContent = notes.filter(Boolean).join(" ");
    this.note.hidden = !this.note.textContent;
    this.figures.textContent = figures(answer, inspect).join(" · ");
  }
}

/** Parts as the page shows them: prose alone, a call together with its result. */
function grouped(parts) {
  const groups = [];
  for (const part of parts) {
    if (part.type === "output" && groups.at(-1)?.python && !groups.at(-1).output) groups.at(-1).output = part;
    else groups.push({ [part.type]: part });
  }
  return groups;
}

const tool = () => h("details", { class: "tool" }, h("summary", {}, icon("tool"), h("span"), h("code"), h("output"), icon("chevron")), h("div"));

function showTool(fold, { python, output }, { inspect, live }) {
  const [, name, code, result] = fold.firstElementChild.children;
  const source = python?.text ?? "";
  name.textContent = output || !live ? "Ran" : "Running";
  code.textContent = source.split("\n")[0].slice(0, 60) + (source.includes("\n") ? " …" : "");
  result.textContent = output ? `= ${output.text.trim().split("\n").at(-1).slice(0, 40)}` : "";
  const key = `${source}\0${output?.text}`;
  if (fold.key === key) return;
  fold.key = key;
  const spans = h("div");
  if (inspect && python?.tokens?.length) showTokens(spans, python.tokens);
  const shown = [codeBlock(source, "python", spans.childElementCount ? [...spans.children] : null)];
  if (output) shown.push(h("p", { class: "label" }, "Result"), h("pre", { class: "result", tabIndex: 0 }, output.text));
  fold.lastElementChild.replaceChildren(...shown);
}

function figures({ usage, seconds, wait, parts, written = 0 }, inspect) {
  const tokens = usage?.completion_tokens ?? written;
  if (!tokens) return [];
  const said = [`${tokens} token${tokens === 1 ? "" : "s"}`];
  if (tokens > 1 && seconds > 0.01) said.push(`${((tokens - 1) / seconds).toFixed(seconds > tokens / 100 ? 1 : 0)} tokens/s`);
  const bits = inspect ? surprise({ parts }) : null;
  if (bits !== null) said.push(`${bits.toFixed(2)} bits/token`);
  else if (usage && wait) said.push(`first after ${wait.toFixed(2)} s`);
  return said;
}
