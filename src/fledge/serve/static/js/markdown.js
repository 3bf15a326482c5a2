// Markdown to safe elements, block by block, so that a growing answer only redraws its last block.

import { Marked } from "../vendor/marked/marked.esm.js";
import purify from "../vendor/dompurify/purify.es.js";
import hljs from "../vendor/highlight/core.min.js";
import bash from "../vendor/highlight/bash.min.js";
import javascript from "../vendor/highlight/javascript.min.js";
import json from "../vendor/highlight/json.min.js";
import python from "../vendor/highlight/python.min.js";
import { copy, h, iconButton } from "./dom.js";

for (const [name, grammar] of Object.entries({ bash, javascript, json, python })) hljs.registerLanguage(name, grammar);

const escaped = (text) => text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
const coloured = (text, language) =>
  hljs.getLanguage(language) ? hljs.highlight(text, { language, ignoreIllegals: true }).value : escaped(text);

// Formulas: $$...$$ and \[...\] stand alone, $...$ and \(...\) run in the text. "$5 and $6" are prices.
const formula = (level, start, pattern) => ({
  name: `math-${level}`,
  level,
  start: (source) => source.match(start)?.index,
  tokenizer(source) {
    const match = pattern.exec(source);
    if (!match) return undefined;
    const display = match[1] ?? match[2];
    return { type: `math-${level}`, raw: match[0], text: display ?? match[3] ?? match[4], display: display !== undefined };
  },
  renderer: ({ text, display }) => `<code class="math" data-display="${display ? "yes" : "no"}">${escaped(text)}</code>`,
});

const nothing = () => undefined;
const markdown = new Marked({
  gfm: true,
  breaks: true,
  // Tags show as they were written; a line under a line is no heading (a list that begins to stream looks like one).
  // "36." alone is an answer and no list of nothing.
  tokenizer: { html: nothing, tag: nothing, lheading: nothing, list: (source) => (/^ *(?:\d+[.)]|[-*+])\s*$/.test(source) ? undefined : false) },
  renderer: {
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
    code({ text, lang }) {
      const language = (lang ?? "").trim().split(/\s/)[0].toLowerCase();
      return `<pre data-language="${escaped(language)}"><code>${coloured(text, language)}</code></pre>`;
    },
  },
  extensions: [
    formula("block", /\n(?=\$\$|\\\[)/, /^(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/),
    formula("inline", /\$|\\[([]/, /^(?:\$\$([^$]+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|\$(?!\s)((?:\\.|[^\\$\n])+?)(?<!\s)\$(?!\d))/),
  ],
});

const SAFE = {
  ALLOWED_TAGS: "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr input li ol p pre span strong table tbody td th thead tr ul".split(" "),
  ALLOWED_ATTR: ["href", "class", "start", "type", "checked", "disabled", "align", "data-language", "data-display"],
  ADD_URI_SAFE_ATTR: ["start", "type", "checked", "disabled", "align", "data-language", "data-display"],
  ALLOW_DATA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?:\/\/|mailto:)/i,
  RETURN_DOM_FRAGMENT: true,
};

/** A block of code under a line with its language and a copy button. `fill` puts the code's own elements into it. */
export function codeBlock(text, language, fill = null) {
  const code = h("code", { class: "hljs" });
  if (fill) code.append(...fill);
  else code.append(purify.sanitize(coloured(text, language), SAFE));
  const button = iconButton("copy", "Copy code", () => copy(code.textContent, button));
  return h("figure", { class: "code" }, h("figcaption", {}, h("span", {}, language || "text"), button), h("pre", { tabIndex: 0 }, code));
}

function block(html) {
  const box = h("div", { class: "block" });
  box.append(purify.sanitize(html, SAFE));
  for (const link of box.querySelectorAll("a[href]")) Object.assign(link, { target: "_blank", rel: "noopener noreferrer" });
  for (const pre of box.querySelectorAll("pre")) {
    const code = pre.querySelector("code");
    pre.replaceWith(codeBlock("", pre.dataset.language, [...code.childNodes]));
  }
  for (const table of box.querySelectorAll("table")) {
    const frame = h("div", { class: "table", tabIndex: 0 });
    table.replaceWith(frame);
    frame.append(table);
  }
  typeset(box);
  return box;
}

let temml = null;
function typeset(box) {
  const formulas = [...box.querySelectorAll("code.math")];
  if (!formulas.length) return;
  if (!temml) {
    loadTemml().then(() => typeset(box));
    return;
  }
  for (const found of formulas) {
    const shown = h("span", { class: "formula" });
    temml.render(found.textContent, shown, { displayMode: found.dataset.display === "yes", throwOnError: false, trust: false });
    found.replaceWith(shown);
  }
}

let loading = null;
const loadTemml = () =>
  (loading ??= new Promise((resolve) => {
    document.head.append(h("link", { rel: "stylesheet", href: "vendor/temml/Temml-Local.css" }));
    document.head.append(h("script", { src: "vendor/temml/temml.min.js", onload: () => resolve((temml = window.temml)) }));
  }));

/** Closes what the stream has opened and not closed yet, so that bold words do not first appear with their asterisks. */
function mended(text) {
  const tail = text.slice(text.lastIndexOf("\n\n") + 1);
  if ((text.match(/^ *```/gm) ?? []).length % 2) return text;
  if ((tail.match(/`/g) ?? []).length % 2) return `${text}\``;
  if ((tail.match(/\*\*/g) ?? []).length % 2) return text.endsWith("**") ? text.slice(0, -2) : `${text.trimEnd()}**`;
  return text;
}

/** Shows `text` in `element`; blocks that have not changed keep their elements, selection and scroll position. */
export function render(element, text, live = false) {
  const tokens = markdown.lexer(live ? mended(text) : text);
  const blocks = tokens.filter((token) => token.type !== "space" && token.type !== "def");
  blocks.forEach((token, index) => {
    const old = element.children[index];
    if (old?.source === token.raw) return;
    const fresh = Object.assign(block(markdown.parser([token])), { source: token.raw });
    if (old) old.replaceWith(fresh);
    else element.append(fresh);
  });
  while (element.children.length > blocks.length) element.lastElementChild.remove();
}
