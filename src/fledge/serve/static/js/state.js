// What the page is showing. Whoever changes it calls changed(), and every view draws itself anew.

import { newChat } from "./conversation.js";
import { setting } from "./store.js";

export const state = {
  models: [], // the run's stages, from the server
  stages: [], // the stage that answers, perhaps a second one beside it
  chat: newChat(),
  running: new Map(), // answer being written -> its AbortController
  inspect: setting.get("inspect", false),
  error: null, // why the stages could not be listed
};

const views = [];
export const onChange = (draw) => views.push(draw);
export const changed = () => views.forEach((draw) => draw());

export const model = (id) => state.models.find((known) => known.id === id);
export const name = () => model(state.stages[0])?.name ?? "The model";
export const isRunning = (chat = state.chat) =>
  Object.values(chat.nodes).some((node) => node.answers?.some((answer) => state.running.has(answer)));

export function setStages(stages) {
  state.stages = stages;
  setting.set("stages", stages);
  changed();
}

export function setInspect(on) {
  state.inspect = on;
  setting.set("inspect", on);
  changed();
}

/** Shows a chat; its address is its id, so that a reload and the back button find it again. */
export function show(chat) {
  state.chat = chat;
  if (location.hash.slice(1) !== chat.id) location.hash = Object.keys(chat.nodes).length ? chat.id : "";
  changed();
}
