// The message box: Enter sends, a slash offers commands, the button becomes Stop while an answer is written.

import { ask, context, editLast, stop, toEnd } from "./chat.js";
import * as commands from "./commands.js";
import { $, html, icon, nothing, notify } from "./dom.js";
import { drawNow, isRunning, name } from "./state.js";

let offered = []; // the commands that begin as the text does
let at = 0; // which of them Enter takes

function submit() {
  const text = $("#prompt").value.trim();
  if (!text) return;
  if (text.startsWith("/")) {
    try {
      const said = commands.run(text);
      if (said) notify(said);
    } catch (error) {
      return notify(error.message);
    }
  } else if (isRunning()) return;
  else ask(text);
  fill("");
}

function fill(text) {
  $("#prompt").value = text;
  onInput();
}

function onInput() {
  const box = $("#prompt");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
  offer(commands.matching(box.value));
}

function offer(some, index = 0) {
  if (!some.length && !offered.length) return;
  offered = some;
  at = index;
  drawNow();
  $("#commands").children[at]?.scrollIntoView({ block: "nearest" });
}

/** Closes the list of commands; returns whether it was open. */
export const closeCommands = () => offered.length > 0 && (offer([]), true);

function complete(command) {
  fill(`/${command.name}${command.argument ? " " : ""}`);
  if (!command.argument) submit();
}

function onKey(event) {
  if (event.isComposing) return;
  const { key } = event;
  const step = { ArrowDown: 1, ArrowUp: offered.length - 1 }[key];
  const isEnter = key === "Enter" && !event.shiftKey;
  if (offered.length && step !== undefined) offer(offered, (at + step) % offered.length);
  else if (offered.length && (key === "Tab" || isEnter)) complete(offered[at]);
  else if (isEnter) submit();
  else if (key === "ArrowUp" && event.target.value === "") editLast();
  else return;
  event.preventDefault();
}

function option(command, index) {
  const pick = (event) => (event.preventDefault(), complete(command)); // the focus stays in the box
  return html`
    <li id="command-${index}" role="option" aria-selected=${index === at} @mousedown=${pick}>
      <code>/${command.name}</code><i>${command.argument}</i><span>${command.about}</span>
    </li>`;
}

export function view() {
  const label = isRunning() ? "Stop" : "Send";
  return html`
    <div id="composer">
      ${toEnd()}
      <ul id="commands" role="listbox" aria-label="Commands" ?hidden=${!offered.length}>${offered.map(option)}</ul>
      <div class="box">
        <textarea id="prompt" rows="1" aria-label="Message" role="combobox" aria-haspopup="listbox" aria-autocomplete="list"
          aria-controls="commands" aria-expanded=${offered.length > 0} aria-activedescendant=${offered.length ? `command-${at}` : nothing}
          enterkeyhint="send" autocomplete="off" placeholder="Message ${name()}"
          @input=${onInput} @keydown=${onKey} @blur=${closeCommands}></textarea>
        <button type="button" id="send" class="solid" title=${label} aria-label=${label}
          @click=${() => (isRunning() ? stop() : submit())}>${icon(label.toLowerCase())}</button>
      </div>
      <footer>
        ${context()}<span class="legend">likely<i></i>unlikely</span>
        <span class="hint">Enter sends, Shift+Enter breaks the line, / lists commands</span>
      </footer>
    </div>`;
}
