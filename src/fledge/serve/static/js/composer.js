// The message box: Enter sends, the button becomes Stop while an answer is written.

import { ask, context, editLast, stop, toEnd } from "./chat.js";
import { $, html, icon, isSending } from "./dom.js";
import { keep, recall } from "./keep.js";
import { isRunning, name, state } from "./state.js";

/** Where what is not sent yet is kept: each conversation has its own, and the next one a place before it has an id. */
const place = () => `draft.${Object.keys(state.chat.nodes).length ? state.chat.id : "next"}`;

/** Shows what was being written here when another conversation came on show, or the page was left. */
export function restore() {
  const box = $("#prompt");
  if (box.dataset.place === place()) return;
  box.dataset.place = place();
  box.value = recall("localStorage", place()) ?? "";
  grow(box);
}

function submit() {
  const box = $("#prompt");
  const text = box.value.trim();
  if (!text || isRunning()) return;
  if (!ask(text)) return;
  keep("localStorage", box.dataset.place, "");
  box.value = "";
  grow(box);
}

function grow(box) {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
}

function onInput({ target: box }) {
  keep("localStorage", box.dataset.place, box.value);
  grow(box);
}

function onKey(event) {
  if (isSending(event)) submit();
  else if (event.key === "ArrowUp" && event.target.value === "") editLast();
  else return;
  event.preventDefault();
}

export function view() {
  const label = isRunning() ? "Stop" : "Send";
  return html`
    <div id="composer">
      ${toEnd()}
      <div class="box">
        <textarea id="prompt" rows="1" aria-label="Message" enterkeyhint="send" autocomplete="off" placeholder="Message ${name()}"
          dir="auto" @input=${onInput} @keydown=${onKey}></textarea>
        <button type="button" id="send" class="solid" title=${label} aria-label=${label}
          @click=${() => (isRunning() ? stop() : submit())}>${icon(label.toLowerCase())}</button>
      </div>
      <footer>
        ${context()}<span class="legend">likely<i></i>unlikely</span>
        <span class="hint">Enter sends, Shift+Enter breaks the line</span>
      </footer>
    </div>`;
}
