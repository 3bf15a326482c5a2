// The message box: Enter sends, a slash offers commands, the button becomes Stop while an answer is written.

import { ask, editLast, stop } from "./chat.js";
import * as commands from "./commands.js";
import { $, h, icon, notify } from "./dom.js";
import { isRunning, name } from "./state.js";

let offered = [];
let at = 0;

function submit() {
  const box = $("#prompt");
  const text = box.value.trim();
  if (!text) return;
  if (text.startsWith("/")) {
    try {
      const said = commands.run(text);
      if (said) notify(said);
    } catch (error) {
      notify(error.message);
      return;
    }
  } else if (isRunning()) return;
  else ask(text);
  box.value = "";
  fit();
}

function fit() {
  const box = $("#prompt");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
  offer();
}

function offer(index = 0) {
  offered = commands.matching($("#prompt").value);
  at = Math.max(0, Math.min(index, offered.length - 1));
  const row = (command, index) => {
    const usage = [h("code", {}, `/${command.name}`), command.argument && h("i", {}, command.argument)];
    const pick = (event) => (event.preventDefault(), complete(command));
    return h("li", { id: `command-${index}`, role: "option", "aria-selected": String(index === at), onmousedown: pick }, ...usage, h("span", {}, command.about));
  };
  const list = $("#commands");
  list.replaceChildren(...offered.map(row));
  list.hidden = !offered.length;
  $("#prompt").setAttribute("aria-expanded", String(offered.length > 0));
  $("#prompt").setAttribute("aria-activedescendant", offered.length ? `command-${at}` : "");
  list.children[at]?.scrollIntoView({ block: "nearest" });
}

function complete(command) {
  const box = $("#prompt");
  box.value = `/${command.name}${command.argument ? " " : ""}`;
  box.focus();
  if (command.argument) fit();
  else submit();
}

function onKey(event) {
  if (event.isComposing) return;
  const { key } = event;
  if (offered.length && (key === "ArrowDown" || key === "ArrowUp")) offer((at + (key === "ArrowDown" ? 1 : offered.length - 1)) % offered.length);
  else if (offered.length && (key === "Tab" || (key === "Enter" && !event.shiftKey))) complete(offered[at]);
  else if (key === "Enter" && !event.shiftKey) submit();
  else if (key === "ArrowUp" && event.target.value === "") editLast();
  else return;
  event.preventDefault();
}

export function mount() {
  const box = $("#prompt");
  box.addEventListener("input", fit);
  box.addEventListener("keydown", onKey);
  box.addEventListener("blur", () => ($("#commands").hidden = true));
  $("#send").addEventListener("click", () => (isRunning() ? stop() : submit()));
  return () => {
    const running = isRunning();
    const label = running ? "Stop" : "Send";
    if ($("#send").title !== label) $("#send").replaceChildren(icon(running ? "stop" : "send"));
    Object.assign($("#send"), { title: label, ariaLabel: label });
    box.placeholder = `Message ${name()}`;
  };
}
