// What the page is showing. Whoever changes it calls changed(), and the page is drawn anew from it.

import { newChat } from "./conversation.js";

const remembered = (key, otherwise) => JSON.parse(localStorage.getItem(`fledge.${key}`) ?? "null") ?? otherwise;
export const onPhone = () => matchMedia("(max-width: 760px)").matches;

export const state = {
  models: [], // the run's stages, from the server
  stages: remembered("stages", []), // the stage that answers, perhaps a second one beside it
  chat: newChat(),
  running: new Map(), // answer being written -> {chat, controller that stops it}
  inspect: remembered("inspect", false),
  sampling: remembered("sampling", {}), // settings the user changed: name -> value
  sidebar: !onPhone() && remembered("sidebar", true), // whether the list of conversations is open
  error: null, // why the stages could not be listed
};

let draw = () => {};
let isDrawing = false;
export const onChange = (view) => (draw = view);

/** Draws the page anew; afterwards, where it is being drawn: an element that goes while it has the focus tells its listeners. */
export function changed() {
  if (isDrawing) return queueMicrotask(changed);
  isDrawing = true;
  try {
    draw();
  } finally {
    isDrawing = false;
  }
}

/** Changes something that survives the page. */
export function remember(key, value) {
  state[key] = value;
  localStorage.setItem(`fledge.${key}`, JSON.stringify(value));
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
