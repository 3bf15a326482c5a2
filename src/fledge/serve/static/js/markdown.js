// Markdown to safe elements, block by block, so that a growing answer only redraws its last block.

import { Marked, Renderer } from "../vendor/marked/marked.esm.js";
import purify from "../vendor/dompurify/purify.es.js";
import hljs from "../vendor/highlight/highlight.min.js";
import { $, copyButton, guard, html, render } from "./dom.js";

const escaped = (text) => text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
const highlighted = (text, language) =>
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

// Functions and classes that nobody fenced, with what is indented below them.
const DEFINES = /^(?:(?:async )?def \w+\(|class \w+(?:\(.*\))?:[ \t]*(?:\n|$))/;
const unfenced = {
  name: "unfenced",
  level: "block",
  start: (source) => source.match(/\n(?=def |class |async def )/)?.index,
  tokenizer(source) {
    if (!DEFINES.test(source)) return undefined;
    const lines = source.split(/(?<=\n)/);
    const end = lines.findIndex((line) => /^\S/.test(line) && !DEFINES.test(line));
    const raw = lines.slice(0, end < 0 ? lines.length : end).join("");
    return { type: "code", raw, text: raw.trimEnd(), lang: "python" };
  },
};

const never = () => undefined;
const markdown = new Marked({
  gfm: true,
  breaks: true,
  // Tags show as they were written; a line under a line is no heading (a list that begins to stream looks like one).
  // "36." alone is an answer and no list of nothing.
  tokenizer: { html: never, tag: never, lheading: never, list: (source) => (/^ *(?:\d+[.)]|[-*+])\s*$/.test(source) ? undefined : false) },
  renderer: {
    table(token) {
      return `<div class="table" tabindex="0">${Renderer.prototype.table.call(this, token)}</div>`;
    },
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
    code({ text, lang }) {
      const language = (lang ?? "").trim().split(/\s/)[0].toLowerCase();
      return `<pre data-language="${escaped(language)}"><code>${highlighted(text, language)}</code></pre>`;
    },
  },
  extensions: [
    unfenced,
    formula("block", /\n(?=\$\$|\\\[)/, /^(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/),
    formula("inline", /\$|\\[([]/, /^(?:\$\$([^$]+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|\$(?!\s)((?:\\.|[^\\$\n])+?)(?<!\s)\$(?!\d))/),
  ],
});

const ATTRIBUTES = ["class", "start", "align", "tabindex", "data-language", "data-display"];
const SAFE = {
  ALLOWED_TAGS: "a blockquote br code del div em h1 h2 h3 h4 h5 h6 hr li ol p pre span strong table tbody td th thead tr ul".split(" "),
  ALLOWED_ATTR: ["href", ...ATTRIBUTES],
  ADD_URI_SAFE_ATTR: ATTRIBUTES,
  ALLOW_DATA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?:\/\/|mailto:)/i,
  RETURN_DOM_FRAGMENT: true,
};

const safe = (markup) => purify.sanitize(markup, SAFE);

/** Code under a line with its language and a button that copies its `text`; `content` are the code's own nodes. */
export const codeBlock = (language, text, content) => html`
  <figure class="code" dir="ltr">
    <figcaption><span>${language || "text"}</span>${copyButton("Copy code", () => text)}</figcaption>
    <pre tabindex="0"><code class="hljs">${content}</code></pre>
  </figure>`;

function block(markup) {
  const box = document.createElement("div");
  Object.assign(box, { className: "block", dir: "auto" });
  box.append(safe(markup));
  for (const link of box.querySelectorAll("a[href]")) Object.assign(link, { target: "_blank", rel: "noopener noreferrer" });
  for (const pre of box.querySelectorAll("pre")) {
    const frame = document.createElement("div");
    const { textContent: text, childNodes } = $("code", pre);
    render(codeBlock(pre.dataset.language, text, [...childNodes]), frame);
    pre.replaceWith(frame.firstElementChild);
  }
  typeset(box.querySelectorAll("code.math"));
  return box;
}

/** Replaces formulas by MathML, with a library that is loaded when the first one appears. */
async function typeset(formulas) {
  if (!formulas.length) return;
  const { default: temml } = await import("../vendor/temml/temml.mjs");
  for (const found of formulas) {
    const shown = document.createElement("span");
    temml.render(found.textContent, shown, { displayMode: found.dataset.display === "yes", throwOnError: false, trust: false });
    found.replaceWith(shown);
  }
}

/** Closes what the stream has opened and not closed yet, so that bold words do not first appear with their asterisks. */
function mended(text) {
  const tail = text.slice(text.lastIndexOf("\n\n") + 1);
  if ((text.match(/^ *```/gm) ?? []).length % 2) return text;
  if ((tail.match(/`/g) ?? []).length % 2) return `${text}\``;
  if ((tail.match(/\*\*/g) ?? []).length % 2) return text.endsWith("**") ? text.slice(0, -2) : `${text.trimEnd()}**`;
  return text;
}

/** A part's prose; blocks that have not changed keep their elements, selection and scroll position. */
export const blocks = ({ text }, live) =>
  guard([text, live], () => {
    const tokens = markdown.lexer(live ? mended(text) : text).filter(({ type }) => type !== "space" && type !== "def");
    return tokens.map((token) => guard([token.raw], () => block(markdown.parser([token]))));
  });

/** The code of a tool call, in colours. */
export const coloured = ({ text }, language) => guard([text], () => safe(highlighted(text, language)));
