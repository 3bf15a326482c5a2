// Starts the page: draws it from the state whenever that changes, listens to the keys, follows the address.

import * as chat from "./chat.js";
import * as composer from "./composer.js";
import { newChat, path } from "./conversation.js";
import { $, addDrawings, html, notify, render } from "./dom.js";
import { help } from "./help.js";
import { hide } from "./inspect.js";
import * as settings from "./settings.js";
import * as sidebar from "./sidebar.js";
import * as stages from "./stages.js";
import { drawNow, onChange, show, state } from "./state.js";
import * as store from "./store.js";

const page = () => html`
  <button type="button" class="skip" @click=${() => $("#prompt").focus()}>Skip to the message box</button>
  ${sidebar.view()}
  <main>${stages.view(sidebar.menu())} ${chat.view()} ${composer.view()}
    <div id="alternatives" role="tooltip" popover="manual"></div>
    <div id="toast" role="status"></div>
  </main>
  ${settings.view()} ${help()}
  <div id="announce" class="visually-hidden" role="status"></div>`;

function draw() {
  render(page(), document.body);
  const title = path(state.chat).length && state.chat.title;
  document.title = title ? `${title} · fledge` : "fledge";
  if (!$(".token:is(:hover, :focus)")) hide();
  composer.restore();
  chat.follow();
}

function onKey(event) {
  const command = event.metaKey || event.ctrlKey;
  if (command && event.key.toLowerCase() === "k") sidebar.search();
  else if (command && event.shiftKey && event.key.toLowerCase() === "o") sidebar.begin();
  else if (event.key === "Escape" && !$("dialog[open]")) {
    if (!sidebar.closeOnPhone()) chat.stop();
    return;
  } else return;
  event.preventDefault();
}

function openFromAddress() {
  const id = location.hash.slice(1);
  const isNew = !path(state.chat).length;
  if (id !== state.chat.id && !(id === "" && isNew)) show(store.get(id) ?? newChat());
}

addDrawings();
const isKept = await store.open();
onChange(draw);
addEventListener("keydown", onKey);
addEventListener("hashchange", openFromAddress);
openFromAddress();
drawNow();
$("#prompt").focus();
await stages.list();
document.body.classList.add("ready");
if (!isKept) notify("This browser keeps nothing: conversations last until the page is closed.");
