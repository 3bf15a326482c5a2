// What the page is showing. Whoever changes it calls changed(), and the page is drawn anew from it.

import { newChat } from "./conversation.js";
import { keep, recall } from "./keep.js";

const remembered = (key, otherwise) => JSON.parse(recall("localStorage", key) ?? "null") ?? otherwise;
export const onPhone = () => matchMedia("(max-width: 760px)").matches;

export const state = {
  models: [], // the run's stages, from the server
  stages: remembered("stages", []), // the stage that answers, perhaps a second one beside it
  chat: newChat(),
  running: new Map(), // answer being written -> {chat, controller that stops it}
  inspect: remembered("inspect", false),
  sampling: remembered("sampling", {}), // settings the user changed: name -> value
  sidebar: !onPhone() && remembered("sidebar", true), // whether the list of conversations is open; on a phone it covers the page
  error: null, // why the stages could not be listed
};

let draw = () => {};
let frame = 0;
export const onChange = (view) => (draw = view);

/** Draws the page anew, at once: for who goes on with what is new on it. */
export function drawNow() {
  cancelAnimationFrame(frame);
  frame = 0;
  draw();
}

/** Draws the page anew with the next frame of the screen, however much changes until then. */
export const changed = () => (frame ||= requestAnimationFrame(drawNow));

/** Changes something that survives the page. */
export function remember(key, value) {
  state[key] = value;
  keep("localStorage", key, JSON.stringify(value));
  changed();
}

export const model = (id) => state.models.find((known) => known.id === id);
export const name = () => model(state.stages[0])?.name ?? "The model";
export const isRunning = (chat = state.chat) => [...state.running.values()].some((running) => running.chat === chat);

/** Shows a chat; its address is its id, so that a reload and the back button find it again. */
export function show(chat) {
  state.chat = chat;
  if (location.hash.slice(1) !== chat.id) location.hash = Object.keys(chat.nodes).length ? chat.id : "";
  changed();
}
