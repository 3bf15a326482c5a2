// Conversations, kept in this browser alone (IndexedDB).

import { revive } from "./conversation.js";

const NAME = `fledge${new URL(".", document.baseURI).pathname}`; // one store per server path
const chats = new Map();
let db = null;

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
  } catch {
    db = null;
  }
  return db !== null;
}

export const get = (id) => chats.get(id);
export const all = () => [...chats.values()].sort((a, b) => b.updated - a.updated);

export function save(chat) {
  chats.set(chat.id, chat);
  if (db) return settled(table("readwrite").put(chat));
}

export function remove(chat) {
  chats.delete(chat.id);
  if (db) return settled(table("readwrite").delete(chat.id));
}

export const exported = (some) => JSON.stringify({ format: "fledge-chats", version: 1, chats: some }, null, 1);

/** Adds the chats of an exported file; returns how many. Throws where the file is something else. */
export async function imported(text) {
  const file = JSON.parse(text);
  if (file?.format !== "fledge-chats") throw new Error('it does not say "format": "fledge-chats"');
  const found = file.chats.map(revive);
  for (const chat of found) await save(chat);
  return found.length;
}
