// A chart of curves over steps, tokens or seconds: drag to zoom, double-click for all, and under the mouse the numbers of the file.

const { uPlot } = window;
export const MANY = 8; // of more curves the means alone are drawn

/** A colour of the page, as the canvas needs it: `light-dark(...)` is resolved by the browser alone. */
const ink = (name) => getComputedStyle(document.body).getPropertyValue(`--drawn-${name}`) || "gray";

/** The colour of the curve `index`: hues a golden angle apart, from the accent on. */
export const dark = matchMedia("(prefers-color-scheme: dark)");
export const hue = (index) => `oklch(${dark.matches ? 0.78 : 0.58} 0.13 ${(185 + index * 137.5) % 360})`;

export const duration = (seconds) => {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 10) return `${+seconds.toFixed(1)}s`;
  seconds = Math.round(seconds); // first, or 239.6 were 3m 60s
  const [minutes, hours] = [Math.floor(seconds / 60), Math.floor(seconds / 3600)];
  if (hours) return `${hours}h ${minutes % 60}m`;
  return minutes ? `${minutes}m ${seconds % 60}s` : `${seconds}s`;
};

/** 1234567 -> 1.23M, 0.00012 -> 0.00012: as short as it can be read. */
export const short = (value) => {
  if (value == null) return "";
  const size = Math.abs(value);
  const [scale, unit] = size >= 1e9 ? [1e9, "G"] : size >= 1e6 ? [1e6, "M"] : size >= 1e4 ? [1e3, "k"] : [1, ""];
  return `${+(value / scale).toPrecision(size >= 1000 && scale === 1 ? 4 : 3)}${unit}`;
};

/** The nearest place with a value, near the mouse: curves of several runs share no places, and between theirs have none. */
function nearest(plot, series, place, x) {
  const [along, values] = [plot.data[0], plot.data[series]], most = 30 * (plot.posToVal(1, "x") - plot.posToVal(0, "x"));
  for (const step of [-1, 1]) for (let at = place; Math.abs(along[at] - x) < most; at += step) if (values[at] != null) return at;
  return null;
}

export class Chart {
  /** Draws into `host`; `zoom(low, high)` is called with what was dragged over, without arguments for all. */
  constructor(host, { height, zoom, read }) {
    Object.assign(this, { host, height, zoom, read, shape: "" });
    new ResizeObserver(() => this.plot?.setSize({ width: host.clientWidth, height })).observe(host);
  }

  /** `curves` as the server sends them, each with a label, an `index` for its colour, and maybe `faint`. */
  draw(curves, { axis, range, log }) {
    const positive = log && curves.every((curve) => curve.y.every((value) => value > 0));
    const few = (this.few = curves.length <= MANY);
    const tables = [], series = [{}];
    this.curves = [,]; // by series, of which the first is x
    for (const curve of curves) {
      const x = curve.start ? curve.x.map((place) => place + curve.start) : curve.x;
      const color = curve.faint ? ink("line") : hue(curve.index), drawn = { spanGaps: true, points: { size: 5, fill: color } };
      const smooth = curve.mean.length > 0, table = [x];
      if (!smooth || few) table.push(curve.y), this.curves.push(curve), series.push({ ...drawn, stroke: color, width: smooth ? 1 : 1.75, alpha: smooth ? 0.3 : 1 });
      if (smooth) table.push(curve.mean), this.curves.push(curve), series.push({ ...drawn, stroke: color, width: 1.75, points: { show: false } });
      tables.push(table);
    }
    const shape = JSON.stringify([axis, positive, dark.matches, curves.map(({ run, stage, faint, index, mean }) => [run, stage, faint, index, mean.length > 0])]);
    const data = tables.length ? uPlot.join(tables) : [[]];
    const [low, high] = range ?? [data[0][0] ?? 0, data[0].at(-1) ?? 1];
    this.range = [low, high > low ? high : low + 1];
    if (shape !== this.shape) {
      this.plot?.destroy();
      this.plot = new uPlot(this.options(series, axis, positive), data, this.host);
      this.shape = shape;
    } else {
      this.plot.setData(data);
    }
  }

  options(series, axis, log) {
    const lines = { stroke: ink("quiet"), grid: { stroke: ink("line"), width: 1 }, ticks: { show: false }, font: "12px ui-sans-serif, system-ui, sans-serif" };
    const along = axis === "seconds" ? duration : short;
    return {
      width: this.host.clientWidth, height: this.height, series, legend: { show: false }, focus: { alpha: this.few ? 1 : 0.25 },
      padding: [8, 24, 0, 0],
      scales: { x: { time: false, range: () => this.range }, y: log ? { distr: 3 } : {} },
      axes: [
        { ...lines, space: 70, size: 28, values: (_, all) => all.map(along) },
        { ...lines, space: 36, size: 52, values: (_, all) => all.map((value) => (value == null ? "" : short(value))) },
      ],
      cursor: {
        y: false, sync: { key: "x" }, drag: { x: true, setScale: false }, bind: { dblclick: () => () => this.zoom() },
        focus: { prox: this.few ? -1 : 24 }, dataIdx: nearest, points: { size: 7 },
      },
      hooks: {
        setSelect: [(plot) => {
          const { left, width } = plot.select;
          if (width > 4) this.zoom(plot.posToVal(left, "x"), plot.posToVal(left + width, "x"));
          plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        }],
        setCursor: [(plot) => this.read(plot.cursor.left < 0 ? [] : this.under(plot), along)],
        setSeries: [(_, place) => (this.focused = place)],
      },
    };
  }

  /** What the file says at the mouse: of the curve next to it, or of all where they are few. */
  under({ cursor, data }) {
    const found = new Map();
    this.curves.forEach((curve, place) => {
      if (cursor.idxs[place] == null || (!this.few && place !== this.focused)) return;
      const x = data[0][cursor.idxs[place]];
      found.set(curve, { curve, x, y: curve.y[curve.x.findIndex((other) => other + curve.start === x)] });
    });
    return [...found.values()];
  }
}
