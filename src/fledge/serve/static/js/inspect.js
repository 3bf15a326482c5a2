// The inspect view: each token coloured by how unlikely it was, with the likeliest alternatives on hover or focus.

import { $, html, render } from "./dom.js";

const percent = (logprob) => {
  const share = 100 * Math.exp(logprob);
  return share >= 99.95 ? "100 %" : share >= 0.1 ? `${share.toFixed(1)} %` : "< 0.1 %";
};
const visible = (token) => token.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥") || "∅";

/** The tokens of a part; one of them is in the tab order, arrows move between them. */
export const tokens = (part, kind = "") => html`<div class=${kind} @keydown=${move}>${part.tokens.map(token)}</div>`;

function token([text, logprob, top], index) {
  if (logprob === null) return text;
  const show = ({ currentTarget }) => showAlternatives(currentTarget, text, logprob, top);
  return html`<span
    class="token" tabindex=${index ? -1 : 0} role="img" aria-label="${visible(text)} ${percent(logprob)}" .style="--doubt: ${1 - Math.exp(logprob)}"
    @focus=${show} @mouseenter=${show} @blur=${hide} @mouseleave=${leave}>${text}</span>`;
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

function showAlternatives(token, chosen, logprob, top) {
  const card = $("#alternatives");
  const all = top.some(([text]) => text === chosen) ? top : [...top, [chosen, logprob]];
  const row = ([text, logprob]) => html`
    <li class=${text === chosen ? "chosen" : ""}>
      <code>${visible(text)}</code><progress value=${Math.exp(logprob)}></progress><span>${percent(logprob)}</span>
    </li>`;
  render(html`<ul>${all.map(row)}</ul>`, card);
  hide();
  card.showPopover({ source: token }); // which the card's position goes by
  token.setAttribute("aria-describedby", "alternatives");
}

/** A token that was tapped or clicked keeps its card until the focus goes elsewhere: after a tap the pointer leaves at once. */
const leave = ({ currentTarget: token }) => token !== document.activeElement && hide();

export const hide = () => $("#alternatives").hidePopover();

/** Bits per token: how surprised the model was by its own answer, on average. */
export function surprise(answer) {
  const logprobs = answer.parts.flatMap((part) => part.tokens ?? []).map(([, logprob]) => logprob).filter((logprob) => logprob !== null);
  return logprobs.length ? -logprobs.reduce((sum, value) => sum + value, 0) / logprobs.length / Math.LN2 : null;
}
