// Conversations, kept in this browser alone (IndexedDB).

import { merge, record, revive } from "./conversation.js";
import { changed } from "./state.js";

const NAME = `fledge${new URL(".", document.baseURI).pathname}`; // one store per server path
const chats = new Map();
let db = null;
let others = null; // the other tabs, which hear the id of each chat that changes

const settled = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
const table = (mode) => db.transaction("chats", mode).objectStore("chats");

/** Opens the store; returns false where the browser keeps nothing (the page then remembers until it is closed). */
export async function open() {
  try {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore("chats", { keyPath: "id" });
    db = await settled(request);
    for (const chat of await settled(table("readonly").getAll())) chats.set(chat.id, chat);
    others = new BroadcastChannel(NAME);
    others.onmessage = ({ data }) => hear(data);
  } catch {
    db = null;
  }
  return db !== null;
}

export const get = (id) => chats.get(id);
export const all = () => [...chats.values()].sort((a, b) => b.updated - a.updated);

/** Another tab changed a chat. */
async function hear(id) {
  const [kept, ours] = [await settled(table("readonly").get(id)), chats.get(id)];
  if (!kept) chats.delete(id);
  else if (!ours) chats.set(id, kept);
  else merge(Object.assign(ours, { title: kept.title, system: kept.system }), kept);
  changed();
}

/** Keeps a chat, together with what other tabs have kept of it meanwhile. */
export async function save(chat) {
  chats.set(chat.id, chat);
  if (!db) return;
  const kept = table("readwrite");
  const before = await settled(kept.get(chat.id));
  if (before) merge(chat, before);
  await settled(kept.put(chat));
  others.postMessage(chat.id);
}

export async function remove(chat) {
  chats.delete(chat.id);
  if (!db) return;
  await settled(table("readwrite").delete(chat.id));
  others.postMessage(chat.id);
}

/** A conversation a line. */
export const exported = (some) => some.map((chat) => `${record(chat)}\n`).join("");

/** What a file holds: one object a line, or a list of them, or what this page exported once. */
function records(text) {
  try {
    const found = JSON.parse(text);
    return found?.chats?.map((chat) => ({ chat })) ?? [found].flat();
  } catch {
    return text.split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
  }
}

/** Adds the conversations of a file, each to the one of its id where there is one; returns how many. Throws where the file is something else. */
export async function imported(text) {
  const found = records(text).map(revive);
  for (const chat of found) {
    const ours = chats.get(chat.id);
    if (ours) merge(ours, chat);
    await save(ours ?? chat);
  }
  return found.length;
}
