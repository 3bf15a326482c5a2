// The list of conversations: search, rename, delete with undo, export and import.

import { stop } from "./chat.js";
import { newChat, path, plain } from "./conversation.js";
import { $, h, iconButton, notify } from "./dom.js";
import { changed, isRunning, show, state } from "./state.js";
import * as store from "./store.js";

const DAY = 86_400_000;
let renaming = null;

const words = (chat) =>
  [chat.title, ...Object.values(chat.nodes).map((node) => node.text ?? node.answers.map(plain).join(" "))].join(" ").toLowerCase();

function age(chat) {
  const days = Math.floor((new Date().setHours(24, 0, 0, 0) - chat.updated) / DAY);
  return days < 1 ? "Today" : days < 2 ? "Yesterday" : days < 7 ? "This week" : days < 31 ? "This month" : "Earlier";
}

function row(chat) {
  if (chat === renaming) return h("li", {}, renameBox(chat));
  const open = h("button", { type: "button", class: "title", "aria-current": chat === state.chat ? "page" : null, onclick: () => (show(chat), onPhone() && close()) }, chat.title || "Untitled");
  const tools = [
    iconButton("edit", `Rename “${chat.title}”`, () => ((renaming = chat), draw(), $("#rename").select())),
    iconButton("export", `Export “${chat.title}”`, () => download([chat])),
    iconButton("trash", `Delete “${chat.title}”`, () => remove(chat)),
  ];
  return h("li", { class: isRunning(chat) ? "running" : "" }, open, h("span", { class: "tools" }, ...tools));
}

function renameBox(chat) {
  const finish = (keep, byKey = false) => {
    if (renaming !== chat) return;
    renaming = null;
    chat.title = (keep && box.value.trim()) || chat.title;
    store.save(chat);
    changed();
    if (byKey) [...$("#list").querySelectorAll(".title")][shown().indexOf(chat)]?.focus();
  };
  const box = h("input", { id: "rename", value: chat.title, "aria-label": "New name", onblur: () => finish(true) });
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "Escape") event.stopPropagation(), event.preventDefault(), finish(event.key === "Enter", true);
  });
  return box;
}

function remove(chat) {
  store.remove(chat);
  stop(chat);
  if (chat === state.chat) show(newChat());
  else changed();
  notify(`Deleted “${chat.title}”.`, ["Undo", () => (store.save(chat), changed())]);
}

function download(chats) {
  const url = URL.createObjectURL(new Blob([store.exported(chats)], { type: "application/json" }));
  h("a", { href: url, download: `fledge-chats-${new Date().toISOString().slice(0, 10)}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

async function upload({ target }) {
  for (const file of target.files) {
    try {
      const count = await store.imported(await file.text());
      notify(`Imported ${count} conversation${count === 1 ? "" : "s"}.`);
    } catch (error) {
      notify(`${file.name} was not imported: ${error.message}.`);
    }
  }
  target.value = "";
  changed();
}

const onPhone = () => matchMedia("(max-width: 760px)").matches;
const isOpen = () => document.body.classList.contains("sidebar");
function toggle(open) {
  document.body.classList.toggle("sidebar", open);
  $("#menu").setAttribute("aria-expanded", String(open));
  if (!onPhone()) store.setting.set("sidebar", open);
}
const close = () => (toggle(false), $("#menu").focus());

export function search() {
  toggle(true);
  $("#search").focus();
  $("#search").select();
}
export const closeOnPhone = () => onPhone() && isOpen() && (close(), true);

function shown() {
  const wanted = $("#search").value.trim().toLowerCase();
  return store.all().filter((chat) => words(chat).includes(wanted));
}

export function draw() {
  const groups = Map.groupBy(shown(), age);
  const items = [...groups].map(([title, some]) => h("section", {}, h("h2", {}, title), h("ul", {}, ...some.map(row))));
  const empty = h("p", { class: "empty" }, $("#search").value.trim() ? "Nothing found." : "Your conversations stay in this browser.");
  $("#list").replaceChildren(...(items.length ? items : [empty]));
  const last = path(state.chat).length && state.chat.title;
  document.title = last ? `${last} · fledge` : "fledge";
}

export function mount() {
  toggle(!onPhone() && store.setting.get("sidebar", true));
  $("#menu").addEventListener("click", () => toggle(!isOpen()));
  $("#shade").addEventListener("click", close);
  $("#new").addEventListener("click", () => (show(newChat()), onPhone() && close(), $("#prompt").focus()));
  $("#search").addEventListener("input", draw);
  $("#search").addEventListener("keydown", (event) => {
    if (event.key === "Enter") $("#list .title")?.click();
    if (event.key === "ArrowDown") event.preventDefault(), $("#list .title")?.focus();
  });
  $("#list").addEventListener("keydown", (event) => {
    const titles = [...$("#list").querySelectorAll(".title")];
    const next = { ArrowDown: 1, ArrowUp: -1 }[event.key] && titles.indexOf(event.target) + { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (next !== undefined && titles[next]) event.preventDefault(), titles[next].focus();
  });
  $("#export").addEventListener("click", () => download(store.all()));
  $("#import").addEventListener("click", () => $("#file").click());
  $("#file").addEventListener("change", upload);
  return draw;
}
