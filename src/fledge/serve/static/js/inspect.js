// The inspect view: each token coloured by how unlikely it was, with the likeliest alternatives on hover or focus.

import { $, h } from "./dom.js";

const percent = (logprob) => {
  const share = 100 * Math.exp(logprob);
  return share >= 99.95 ? "100 %" : share >= 0.1 ? `${share.toFixed(1)} %` : "< 0.1 %";
};
const visible = (token) => token.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥") || "∅";

/** Draws the tokens that are new since the last call; one of them is in the tab order, arrows move between them. */
export function showTokens(element, tokens) {
  for (const [text, logprob, top] of tokens.slice(element.children.length)) {
    const token = h("span", { class: "token", tabIndex: element.children.length ? -1 : 0, onfocus: show, onmouseenter: show, onblur: hide, onmouseleave: leave }, text);
    token.style.setProperty("--doubt", (1 - Math.exp(logprob)).toFixed(3));
    token.setAttribute("aria-label", `${visible(text)} ${percent(logprob)}`);
    token.setAttribute("role", "img");
    Object.assign(token, { logprob, top });
    element.append(token);
  }
  element.onkeydown ??= move;
}

function move(event) {
  const next = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
  const target = next && event.target[next];
  if (event.key === "Escape") hide();
  if (!target) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  target.tabIndex = 0;
  target.focus();
}

function show({ currentTarget: token }) {
  const card = $("#alternatives");
  const chosen = token.textContent;
  const rows = token.top.some(([text]) => text === chosen) ? token.top : [...token.top, [chosen, token.logprob]];
  card.replaceChildren(
    ...rows.map(([text, logprob]) => {
      const bar = h("i", {});
      bar.style.width = `${100 * Math.exp(logprob)}%`;
      return h("li", { class: text === chosen ? "chosen" : "" }, h("code", {}, visible(text)), h("span", { class: "bar" }, bar), h("span", {}, percent(logprob)));
    }),
  );
  card.hidden = false;
  token.setAttribute("aria-describedby", "alternatives");
  const at = token.getClientRects()[0] ?? token.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = card;
  card.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
  card.style.top = `${at.top - height - 8 > 0 ? at.top - height - 8 : at.bottom + 8}px`;
}

/** A token that was tapped or clicked keeps its card until the focus goes elsewhere: after a tap the pointer leaves at once. */
const leave = ({ currentTarget: token }) => token !== document.activeElement && hide();

export const hide = () => ($("#alternatives").hidden = true);

/** Bits per token: how surprised the model was by its own answer, on average. */
export function surprise(answer) {
  const logprobs = answer.parts.flatMap((part) => part.tokens ?? []).map(([, logprob]) => logprob);
  return logprobs.length ? -logprobs.reduce((sum, value) => sum + value, 0) / logprobs.length / Math.LN2 : null;
}
