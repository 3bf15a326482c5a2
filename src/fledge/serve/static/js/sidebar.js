// The list of conversations: search, rename, delete with undo, export and import.

import { stop } from "./chat.js";
import { markdown, newChat, plain } from "./conversation.js";
import { $, askFor, html, icon, iconButton, nothing, notify } from "./dom.js";
import { changed, drawNow, isRunning, name, onPhone, remember, show, state } from "./state.js";
import * as store from "./store.js";

const DAY = 86_400_000;
const PAGE = 60;
let wanted = ""; // what is searched for
let most = PAGE; // how many are in the list; more are drawn as its end comes into view

const words = (chat) =>
  [chat.title, ...Object.values(chat.nodes).map((node) => node.text ?? node.answers.map(plain).join(" "))].join(" ").toLowerCase();
const found = () => store.all().filter((chat) => !wanted || words(chat).includes(wanted));

function age(chat) {
  const days = Math.floor((new Date().setHours(24, 0, 0, 0) - chat.updated) / DAY);
  return days < 1 ? "Today" : days < 2 ? "Yesterday" : days < 7 ? "This week" : days < 31 ? "This month" : "Earlier";
}

async function rename(chat) {
  const title = await askFor("New name", { value: chat.title });
  if (!title) return;
  chat.title = title;
  store.save(chat);
  changed();
}

function remove(chat) {
  store.remove(chat);
  stop(chat);
  if (chat === state.chat) show(newChat());
  else changed();
  notify(`Deleted “${chat.title}”.`, "Undo", () => (store.save(chat), changed()));
}

function download(text, type) {
  const url = URL.createObjectURL(new Blob([text]));
  const name = `fledge-${new Date().toISOString().slice(0, 10)}.${type}`;
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
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

/** Closes the list where it covers the page; returns whether it did. */
export function closeOnPhone() {
  if (!onPhone() || !state.sidebar) return false;
  remember("sidebar", false);
  $("#menu").focus();
  return true;
}

export function search() {
  remember("sidebar", true);
  drawNow();
  $("#search").focus();
  $("#search").select();
}

function open(chat) {
  show(chat);
  drawNow(); // or what is typed before the next frame would be taken for the draft of the last conversation
  closeOnPhone();
}

export function begin() {
  open(newChat());
  $("#prompt").focus();
}

// ---- Drawing

const titles = () => [...document.querySelectorAll("#list .title")];

/** Arrows go from title to title, and from the search to the first. */
function onKey(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const next = step && titles()[titles().indexOf(event.target) + step];
  if (event.target.id === "search" && event.key === "Enter") titles()[0]?.click();
  if (!next) return;
  event.preventDefault();
  next.focus();
}

function row(chat) {
  return html`
    <li class=${isRunning(chat) ? "running" : ""}>
      <button type="button" class="title" dir="auto" aria-current=${chat === state.chat ? "page" : nothing} @click=${() => open(chat)}>
        ${chat.title || "Untitled"}
      </button>
      <span class="tools">
        ${iconButton("edit", `Rename “${chat.title}”`, () => rename(chat))}
        ${iconButton("export", `Export “${chat.title}”`, () => download(store.exported([chat]), "jsonl"))}
        ${iconButton("text", `Export “${chat.title}” as Markdown`, () => download(markdown(chat, name()), "md"))}
        ${iconButton("trash", `Delete “${chat.title}”`, () => remove(chat))}
      </span>
    </li>`;
}

function chatList() {
  const group = ([title, some]) => html`<section><h2>${title}</h2><ul>${some.map(row)}</ul></section>`;
  const empty = html`<p class="empty">${wanted ? "Nothing found." : "Your conversations stay in this browser."}</p>`;
  const chats = found().slice(0, most);
  return chats.length ? [...Map.groupBy(chats, age)].map(group) : empty;
}

function onSearch({ target }) {
  wanted = target.value.trim().toLowerCase();
  most = PAGE;
  changed();
}

function onScroll({ target: list }) {
  if (list.scrollHeight - list.scrollTop > 2 * list.clientHeight || most > store.all().length) return;
  most += PAGE;
  changed();
}

/** What leads to the list, and to a new conversation where the list is out of sight. */
export const menu = () => html`
  <button type="button" id="menu" class="icon-button" aria-label="Conversation list" title="Conversation list"
    aria-controls="sidebar" aria-expanded=${state.sidebar} @click=${() => remember("sidebar", !state.sidebar)}>${icon("panel")}</button>
  ${state.sidebar && !onPhone() ? nothing : iconButton("plus", "New conversation", begin, { id: "another" })}`;

export const view = () => html`
  <nav id="sidebar" class=${state.sidebar ? "open" : ""} aria-label="Conversations" @keydown=${onKey}>
    <header>
      <span class="brand">${icon("feather")}fledge</span>
      ${iconButton("plus", "New conversation", begin, { id: "new", hint: "New conversation (Ctrl+Shift+O)" })}
    </header>
    <input id="search" type="search" placeholder="Search" aria-label="Search conversations" title="Search (Ctrl+K)" autocomplete="off"
      @input=${onSearch}>
    <div id="list" @scroll=${onScroll}>${chatList()}</div>
    <footer>
      <button type="button" id="help-open" class="plain" @click=${() => $("#help").showModal()}>Help</button>
      <button type="button" id="import" class="plain" @click=${() => $("#file").click()}>Import</button>
      <button type="button" id="export" class="plain" @click=${() => download(store.exported(store.all()), "jsonl")}>Export all</button>
      <input id="file" type="file" accept=".jsonl,.json" multiple hidden aria-label="Conversations to import" @change=${upload}>
    </footer>
  </nav>
  <div id="shade" @click=${closeOnPhone}></div>`;
