// One answer on the page: prose, tool calls as folds, notes and figures.

import { html, icon, nothing } from "./dom.js";
import { surprise, tokens } from "./inspect.js";
import { blocks, codeBlock, coloured } from "./markdown.js";
import { state } from "./state.js";

const NOTES = {
  null: "This answer has no end yet: it was interrupted, or is being written in another tab.",
  length: "It ran out of room: the token limit or the end of the context.",
  cancelled: "You stopped this answer.",
  tool_error: "The answer ended because a tool call went wrong.",
};

const NO_CODE = { text: "" }; // an output without a call, as an imported file may hold

const left = (turns) => (turns === 1 ? "1 earlier turn no longer fits and was left out." : `${turns} earlier turns no longer fit and were left out.`);

export function body(answer) {
  const live = state.running.has(answer);
  const groups = grouped(answer.parts);
  // A calculation amid a sentence stays in the line.
  const isSentence = groups.length > 1 && answer.parts.every((part) => !part.text.includes("\n"));
  const kind = [live && "live", live && !groups.length && "waiting", isSentence && "sentence"].filter(Boolean).join(" ");
  const shown = groups.map((group, index) => (group.text ? prose(group.text, live && index === groups.length - 1) : tool(group, live)));
  return html`<div class="body ${kind}">${shown}</div>`;
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

const isInspected = (part) => state.inspect && part?.tokens?.some(([, logprob]) => logprob !== null);
const prose = (part, live) => (isInspected(part) ? tokens(part, "tokens") : html`<div class="prose">${blocks(part, live)}</div>`);

function tool({ python = NO_CODE, output }, live) {
  const source = python.text;
  const start = source.split("\n")[0].slice(0, 60) + (source.includes("\n") ? " …" : "");
  const end = output ? `= ${output.text.trim().split("\n").at(-1).slice(0, 40)}` : "";
  const code = isInspected(python) ? tokens(python) : coloured(python, "python");
  const result = html`<p class="label">Result</p><pre class="result" tabindex="0">${output?.text}</pre>`;
  return html`
    <details class="tool">
      <summary>
        ${icon("tool")}<span>${output || !live ? "Ran" : "Running"}</span><code>${start}</code><output>${end}</output>${icon("chevron")}
      </summary>
      <div>${codeBlock("python", source, code)}${output ? result : nothing}</div>
    </details>`;
}

export function note(answer, isLast) {
  const isOver = !state.running.has(answer);
  const notes = [isOver && !answer.error && NOTES[answer.finish], answer.dropped && left(answer.dropped)];
  const isEmpty = !answer.parts.length;
  if (isOver && answer.finish === "stop" && isEmpty) notes.push("The answer is empty: the model ended it at once.");
  if (state.inspect && isOver && isLast && !isEmpty && surprise(answer) === null)
    notes.push("Written without probabilities: ask again to see them.");
  const said = notes.filter(Boolean).join(" ");
  return said ? html`<p class="note">${said}</p>` : nothing;
}

export function figures(answer) {
  const { usage, seconds, wait, written = 0 } = answer;
  const count = usage?.completion_tokens ?? written;
  if (!count) return "";
  const said = [`${count} token${count === 1 ? "" : "s"}`];
  if (count > 1 && seconds > 0.01) said.push(`${((count - 1) / seconds).toFixed(seconds > count / 100 ? 1 : 0)} tokens/s`);
  const bits = state.inspect ? surprise(answer) : null;
  if (bits !== null) said.push(`${bits.toFixed(2)} bits/token`);
  else if (usage && wait) said.push(`first after ${wait.toFixed(2)} s`);
  return said.join(" · ");
}
