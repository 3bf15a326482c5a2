// The message box: Enter sends, the button becomes Stop while an answer is written.

import { ask, context, editLast, stop, toEnd } from "./chat.js";
import { $, html, icon, isSending } from "./dom.js";
import { isRunning, name } from "./state.js";

function submit() {
  const box = $("#prompt");
  const text = box.value.trim();
  if (!text || isRunning()) return;
  ask(text);
  box.value = "";
  grow(box);
}

function grow(box) {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
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
          @input=${({ target }) => grow(target)} @keydown=${onKey}></textarea>
        <button type="button" id="send" class="solid" title=${label} aria-label=${label}
          @click=${() => (isRunning() ? stop() : submit())}>${icon(label.toLowerCase())}</button>
      </div>
      <footer>
        ${context()}<span class="legend">likely<i></i>unlikely</span>
        <span class="hint">Enter sends, Shift+Enter breaks the line</span>
      </footer>
    </div>`;
}
