// The keys, on a sheet.

import { dialog, html } from "./dom.js";

const KEYS = [
  ["Enter", "Send the message."],
  ["Shift Enter", "A new line."],
  ["↑", "In the empty box: edit the last message."],
  ["Esc", "Stop the answer, or close what is open."],
  ["Ctrl K", "Search the conversations."],
  ["Ctrl Shift O", "A new conversation."],
  ["← →", "In the inspect view: from token to token."],
];

const row = ([keys, about]) => html`<dt>${keys.split(" ").map((key) => html`<kbd>${key}</kbd> `)}</dt><dd>${about}</dd>`;

export const help = () => dialog("help", "Keys", html`<dl>${KEYS.map(row)}</dl>`);
