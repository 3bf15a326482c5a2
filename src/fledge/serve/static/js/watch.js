// The page of `fledge watch`: asks for the state every two seconds, and for curves where they have grown or others are wanted.

import { $, addDrawings, html, icon, nothing, render } from "./dom.js";
import { Chart, MANY, dark, duration, hue, short } from "./plot.js";

const MAIN = {
  loss_nats: "loss, nats per token", val_bits_per_byte: "held-out bits per byte", val_answer_bits_per_byte: "held-out answers, bits per byte",
  reward: "mean reward", validation: "validation accuracy", tokens_per_second: "tokens per second", gradient_norm: "gradient norm", rate_share: "rate, share of its base",
};
const AXES = { step: "steps", tokens: "tokens", seconds: "seconds" };
const view = { axis: "step", range: null, log: false, hidden: new Set(), more: false, sort: "val_bits_per_byte", down: false, metric: "", sample: null };
const charts = new Map();
let state = null, wrong = "", curves = {}, drawn = "", samples = [], sampled = "";

const ask = async (path) => {
  const response = await fetch(path).catch(() => null);
  const body = await response?.json().catch(() => null);
  if (!response?.ok) throw new Error(body?.error?.message ?? "fledge watch does not answer. Is it still running?");
  return body;
};
const isOne = () => state.runs.length === 1;
const isMany = () => state.runs.filter((run) => !view.hidden.has(run.name)).length > MANY;
const variant = (run) => run.replace(/\/?seed-\d+$/, "");
const ordered = (one, other) => one.localeCompare(other, undefined, { numeric: true });
const variants = () => [...new Set(state.runs.map((run) => variant(run.name)))].sort(ordered);
const key = ({ run, stage }) => (isOne() ? stage : run);
const index = ({ run, stage }) => (isOne() ? state.runs[0].stages.findIndex((one) => one.name === stage) : variants().indexOf(variant(run)));
const named = (metric) => MAIN[metric] ?? metric.replaceAll("_", " ");
const dot = (place) => html`<i class="dot" .style=${`background: ${hue(place)}`}></i>`;

/** The metrics whose charts are on the page. */
const shown = () => {
  const there = state.metrics.filter((name) => name !== "peak_memory_bytes");
  const main = Object.keys(MAIN).filter((name) => there.includes(name));
  return view.more ? [...main, ...there.filter((name) => !main.includes(name))] : main;
};

// What is on the page

const choice = (options, now, set) => html`<span class="choice">${Object.entries(options).map(([name, text]) => html`
  <button type="button" aria-pressed=${name === now} @click=${() => (set(name), refresh())}>${text}</button>`)}</span>`;

const bar = () => html`
  <header id="top">
    <h1 class="brand">${icon("feather")} ${state?.name ?? "fledge watch"}</h1>
    ${state && html`<span class="quiet">${isOne() ? state.runs[0].rank : `${state.runs.length} runs`}</span>
    <span class="space"></span>
    ${view.range ? html`<button type="button" class="plain" @click=${() => zoom()}>Show all</button>` : nothing}
    ${choice({ log: "log" }, view.log ? "log" : "", () => (view.log = !view.log))}
    ${choice(AXES, view.axis, (axis) => Object.assign(view, { axis, range: null }))}`}
  </header>`;

const figure = (name, value) => (value ? html`<div><dt>${name}</dt><dd>${value}</dd></div>` : nothing);

const card = (stage, place) => html`
  <button type="button" class="stage" aria-pressed=${!view.hidden.has(stage.name)} @click=${() => toggle(stage.name)}>
    <span class="name">${dot(place)} ${stage.name}
      <small>${stage.state === "training" && stage.left_seconds != null ? `${duration(stage.left_seconds)} left` : stage.state}</small></span>
    ${stage.state === "done" || !stage.steps ? nothing : html`<progress value=${stage.step} max=${stage.steps}></progress>`}
    <dl>
      ${figure("step", stage.state === "done" ? short(stage.step) : `${short(stage.step)}${stage.steps ? ` of ${short(stage.steps)}` : ""}`)}
      ${figure("loss", stage.name === "rl" ? "" : short(stage.last.loss_nats))} ${figure("reward", short(stage.last.reward))}
      ${figure("held out", short(stage.last.val_bits_per_byte ?? stage.last.val_answer_bits_per_byte))}
      ${figure("tokens/s", short(stage.tokens_per_second))} ${figure("time", duration(stage.seconds))}
      ${figure("memory", stage.peak_memory_bytes ? `${short(stage.peak_memory_bytes)}B` : "")}
    </dl>
  </button>`;

const chart = (id, title, place = null) => html`
  <figure class="chart" data-chart=${id}><figcaption>${place === null ? nothing : dot(place)} <b title=${title}>${title}</b> <output></output></figcaption><div></div></figure>`;

const small = () => {
  const metric = state.metrics.includes(view.metric) ? view.metric : shown().find((name) => name.startsWith("val")) ?? "loss_nats";
  return variants().length < 2 ? nothing : html`
    <h2>Each beside all <select aria-label="Metric" @change=${({ target }) => ((view.metric = target.value), refresh())}>
      ${shown().map((name) => html`<option value=${name} ?selected=${name === metric}>${named(name)}</option>`)}</select></h2>
    <div class="multiples">${variants().map((name, place) => chart(`${metric}\n${name}`, name, place))}</div>`;
};

const columns = () => ({
  name: (run) => run.name, ...Object.fromEntries(Object.keys(state.runs[0].differs).map((name) => [name, (run) => run.differs[name]])),
  state: (run) => (run.unreadable.length ? "unreadable" : run.stages.at(-1)?.state), ...Object.fromEntries(["val_bits_per_byte", "loss_nats"].map((name) => [name, (run) => run.stages.at(-1)?.last[name]])),
  step: (run) => run.stages.at(-1)?.step, tokens: (run) => run.stages.at(-1)?.tokens, seconds: (run) => run.stages.at(-1)?.seconds,
});
const cell = (name, value) => (name === "seconds" ? duration(value) : typeof value !== "number" ? value ?? "" : name in MAIN ? value.toFixed(4) : short(value));

const points = () => {
  const all = columns(), by = all[view.sort] ?? all.name, sign = view.down ? -1 : 1;
  const rows = state.runs.toSorted((one, other) => {
    const [a, b] = [by(one), by(other)];
    return a == null || b == null ? (a == null) - (b == null) : sign * (typeof a === "number" && typeof b === "number" ? a - b : ordered(String(a), String(b)));
  });
  const sort = (name) => (Object.assign(view, { down: view.sort === name && !view.down, sort: name }), draw());
  return html`
    <div class="table"><table id="points"><thead><tr>${Object.keys(all).map((name) => html`
      <th aria-sort=${view.sort === name ? (view.down ? "descending" : "ascending") : nothing}><button type="button" @click=${() => sort(name)}>${name}</button></th>`)}</tr></thead>
    <tbody>${rows.map((run) => html`
      <tr class=${view.hidden.has(run.name) ? "off" : ""} @click=${() => toggle(run.name)}>${Object.entries(all).map(([name, of]) => html`
        <td>${name === "name" ? dot(index({ run: run.name })) : nothing} ${cell(name, of(run))}</td>`)}</tr>`)}</tbody></table></div>
    ${state.failed.map((point) => html`<p class="problem">${point.variant} seed ${point.seed} failed: ${point.error}</p>`)}
    <ul class="sentences">${state.sentences.map((text) => html`<li>${text}</li>`)}</ul>`;
};

const grades = ({ grades }) => {
  const stages = Object.keys(grades), tasks = [...new Set(stages.flatMap((stage) => Object.keys(grades[stage])))];
  const grade = (score) => (score ? html`<td><span .style=${`--share: ${Math.max(0, score.accuracy) * 100}%`}>${score.accuracy.toFixed(2)} <small>± ${score.standard_error.toFixed(2)}</small></span></td>` : html`<td></td>`);
  return tasks.length ? html`<h2>Grades</h2><div class="table"><table id="grades">
    <thead><tr><th>task</th>${stages.map((stage) => html`<th>${stage}</th>`)}</tr></thead>
    <tbody>${tasks.map((task) => html`<tr><th>${task}</th>${stages.map((stage) => grade(grades[stage][task]))}</tr>`)}</tbody></table></div>` : nothing;
};

const writing = () => {
  const at = Math.min(view.sample ?? Infinity, samples.length - 1), now = samples[at];
  return now ? html`<h2>What it writes <small>${now.stage}, step ${now.step}</small>
    ${samples.length > 1 ? html`<input type="range" aria-label="Sample" min="0" max=${samples.length - 1} .value=${String(at)}
      @input=${({ target }) => ((view.sample = +target.value === samples.length - 1 ? null : +target.value), draw())}>` : nothing}</h2>
    <ul class="samples">${[...now.texts].map(({ prompt, text }) => html`<li><b>${prompt}</b>${text}</li>`)}</ul>` : nothing;
};

const page = () => html`
  ${bar()}
  ${wrong ? html`<p class="problem" role="alert">${wrong}</p>` : nothing}
  ${state && html`
    ${[state.unreadable, ...state.runs.flatMap((run) => run.unreadable)].map((why) => why && html`<p class="problem">Unreadable: ${why}</p>`)}
    ${isOne() ? html`<div class="cards">${state.runs[0].stages.map(card)}</div>` : nothing}
    ${state.metrics.length ? nothing : html`<p class="quiet">No step yet: the first comes after the data is read and the model compiled.</p>`}
    <div class="charts">${shown().map((name) => chart(name, named(name)))}</div>
    <p class="hint">${shown().length ? `Drag over a chart to zoom, double-click for all. ${isMany() ? "Lines: the mean of a fiftieth of what is shown." : "Bold: the mean of a fiftieth of what is shown; faint: least and greatest steps."}` : ""}
      ${state.metrics.length > shown().length || view.more ? html`<button type="button" class="plain" @click=${() => ((view.more = !view.more), refresh())}>${view.more ? "Fewer curves" : "More curves"}</button>` : nothing}</p>
    ${isOne() ? html`${writing()} ${grades(state.runs[0])}` : html`${small()} ${points()}`}`}`;

// How it comes there

function draw() {
  render(page(), document.body);
  document.title = state ? `${state.name} · fledge watch` : "fledge watch";
  const seen = new Set();
  for (const box of document.querySelectorAll("[data-chart]")) {
    const id = box.dataset.chart, [metric, only] = id.split("\n"), host = $("div", box);
    let one = charts.get(id);
    if (one?.host !== host) charts.set(id, (one = new Chart(host, { height: only ? 120 : metric === "loss_nats" ? 300 : 180, zoom, read: reader(box) })));
    seen.add(id);
    const stamp = [drawn, view.log, dark.matches, ...view.hidden].join();
    if (one.stamp === stamp) continue;
    one.stamp = stamp;
    const all = (curves[metric] ?? []).filter((curve) => !view.hidden.has(key(curve)) && !(metric === "loss_nats" && curve.stage === "rl")).map((curve) => ({ ...curve, index: index(curve), faint: only && variant(curve.run) !== only, ...(metric === "rate_share" && { mean: [] }) }));
    all.sort((a, b) => Boolean(b.faint) - Boolean(a.faint));
    one.draw(all, view);
  }
  for (const id of charts.keys()) if (!seen.has(id)) charts.delete(id);
}

/** Shows under which curves the mouse is, beside the title of the chart. */
const reader = (box) => (found, along) => render(found.map(({ curve, x, y }) => html`<span>${dot(curve.index)} ${isOne() ? (found.length > 1 ? "" : curve.stage) : curve.run}
  ${view.axis === "step" ? "step" : ""} ${along(x)}: <b>${+y.toPrecision(6)}</b></span>`), $("output", box));

function zoom(low, high) {
  view.range = low === undefined ? null : [low, high];
  return refresh();
}

function toggle(name) {
  view.hidden.has(name) ? view.hidden.delete(name) : view.hidden.add(name);
  return refresh();
}

/** Asks for what the page lacks, and draws it; by the clock only if something has changed. */
async function refresh({ byClock = false } = {}) {
  const before = JSON.stringify([state, wrong]);
  try {
    state = await ask("watch/state");
    if (!drawn) draw(); // the curves take longer
    const asked = new URLSearchParams({ axis: view.axis, ...(isMany() ? { points: 150, evenly: 1 } : { points: Math.max(300, Math.min(1200, innerWidth)) }) });
    for (const name of shown()) asked.append("metric", name);
    if (view.range) asked.set("low", view.range[0]), asked.set("high", view.range[1]);
    const wanted = `${state.version} ${asked}`;
    if (wanted !== drawn && shown().length) [curves, drawn] = [await ask(`watch/curves?${asked}`), wanted];
    const written = String(state.runs[0].stages.map((stage) => stage.samples));
    if (isOne() && written !== sampled) [samples, sampled] = [await ask(`watch/samples?${new URLSearchParams({ run: state.runs[0].name })}`), written];
    wrong = "";
  } catch (error) {
    wrong = error.message;
  }
  if (!byClock || JSON.stringify([state, wrong]) !== before) draw();
}

dark.addEventListener("change", draw);
addDrawings();
await refresh();
document.body.classList.add("ready");
setInterval(() => document.hidden || refresh({ byClock: true }), 2000);
