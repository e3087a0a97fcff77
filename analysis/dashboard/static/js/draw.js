// Figures. plotly.js is loaded after the first texts and tables are there, and only what is in view is drawn.

const plotly = { loading: null };

function loadPlotly() {
  if (!plotly.loading) plotly.loading = store.carried ? carriedPlotly() : servedPlotly();
  return plotly.loading;
}

function servedPlotly() {
  return new Promise((done, failed) => {
    const script = el("script", { src: document.querySelector("meta[name=library]").content });
    script.onload = () => done(window.Plotly);
    script.onerror = () => failed(new Error("the drawing library did not load"));
    document.head.append(script);
  });
}

async function carriedPlotly() {
  const script = document.createElement("script");
  script.textContent = await carriedText("library");
  document.head.append(script);
  return window.Plotly;
}

const themeName = () => document.documentElement.dataset.theme;
const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["toImage", "select2d", "lasso2d", "autoScale2d"] };

function framed(figure, box) {
  const narrow = box && box.clientWidth < 620;
  const margin = { l: narrow ? 70 : 76, r: narrow ? 12 : 26, t: 30, b: 54, ...figure.layout.margin };
  return { ...figure.layout, template: { layout: LOOK.templates[themeName()] }, autosize: true, showlegend: false, margin };
}

// One box, one figure. It is there at once on a canvas; plotly.js draws the same under the hand of the reader.
class Figure {
  constructor(height, label, make, { drawnBefore = false } = {}) {
    this.make = make;
    this.canSketch = !drawnBefore;
    this.box = el("div", { class: "figure", role: "figure", "aria-label": label, style: { minHeight: `${height}px` } });
    this.box.addEventListener("pointerenter", () => hurry());
  }

  show() {
    const width = this.box.clientWidth;
    if (!width) return;
    this.figure = this.make(width);
    if (!this.canSketch) return;
    this.box.replaceChildren(sketch(this.figure, framed(this.figure, this.box), width));
    this.box.style.minHeight = "";
    this.box.dataset.shown = "canvas";
  }

  async draw() {
    try {
      const Plotly = await loadPlotly();
      if (!this.box.isConnected) return;
      this.figure = this.figure || this.make(this.box.clientWidth);
      const plot = el("div", { class: "plot" });
      this.box.append(plot);
      const layout = framed(this.figure, this.box);
      await Plotly.newPlot(plot, this.figure.data, layout, CONFIG);
      if (this.plot) Plotly.purge(this.plot);
      this.plot = plot;
      this.box.replaceChildren(plot);
      this.box.style.minHeight = "";
      this.listen(Plotly);
      this.box.dataset.drawn = String(Number(this.box.dataset.drawn || 0) + 1);
    } catch (problem) {
      console.error(problem);
      this.box.append(el("p", { class: "note warn" }, `This figure cannot be drawn: ${problem.message}`));
    }
  }

  listen(Plotly) {
    this.plot.on("plotly_click", event => {
      const key = event.points[0]?.customdata;
      if (typeof key === "string") go({ view: "run", run: key }, { replace: false });
    });
    this.plot.on("plotly_relayout", change => {
      if (this.busy || !Object.keys(change).some(name => /axis\d*\.(range|autorange)/.test(name))) return;
      this.busy = true;
      this.zoomed(Plotly, change).finally(() => { this.busy = false; });
    });
  }

  // Other ticks for another range; and room for points that lay under others.
  async zoomed(Plotly, change) {
    const shown = this.plot.layout, update = {};
    const back = Object.keys(change).some(name => name.endsWith("autorange"));
    for (const name of Object.keys(shown).filter(key => /^[xy]axis\d*$/.test(key))) {
      if (shown[name].tickmode !== "array" || !this.figure.layout[name]) continue;
      if (back) update[`${name}.range`] = [...this.figure.layout[name].range];
      const axis = back ? this.figure.layout[name] : { ...shown[name], write: this.figure.layout[name].write };
      const ticks = ticksAnew(axis);
      for (const [key, value] of Object.entries(ticks)) update[`${name}.${key}`] = value;
    }
    await Plotly.relayout(this.plot, update);
    if (this.onZoom) await this.onZoom(Plotly, back ? null : this.plot.layout);
  }

  gone() {
    if (this.plot && window.Plotly) window.Plotly.purge(this.plot);
  }

  // As a file: with title, legend and a fixed size, in the theme that is shown.
  async picture(format, name) {
    const Plotly = await loadPlotly();
    const width = Math.max(1000, Math.min(this.box.clientWidth, 1400));
    const figure = this.make(width, { print: true });
    const height = figure.layout.height + 60;
    const layout = { ...framed(figure), width, height, autosize: false, showlegend: true, title: { text: escaped(figure.title || name) } };
    layout.margin = { ...layout.margin, t: 76, r: 150 };
    const hidden = el("div", { style: { position: "absolute", left: "-10000px" } });
    document.body.append(hidden);
    try {
      await Plotly.newPlot(hidden, [...figure.data, ...(figure.legend || [])], layout, { staticPlot: true });
      return await Plotly.toImage(hidden, { format, width, height, scale: format === "png" ? 2 : 1 });
    } finally {
      Plotly.purge(hidden);
      hidden.remove();
    }
  }
}

// plotly.js reads a little HTML in texts; names of runs and tables must not be taken for it.
const escaped = text => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// -- points

const MOST_POINTS = 1400;

// Of points on top of each other one is drawn: a grid of cells in pixels, coarser until few enough are left.
// points: {group, ...}, groups being small whole numbers; toPixel: where a point is drawn. Each kept point tells in
// `more` how many others it stands for.
const WIDE = 8192;
function thinned(points, toPixel, most) {
  if (points.length <= most) return points;
  const xs = new Float64Array(points.length), ys = new Float64Array(points.length);
  points.forEach((point, at) => { [xs[at], ys[at]] = toPixel(point); });
  for (let cell = 2; ; cell *= 1.5) {
    const first = new Map(), more = new Map();
    for (let at = 0; at < points.length && first.size <= most; at++) {
      const id = (points[at].group * WIDE + Math.round(xs[at] / cell) + 2048) * WIDE + Math.round(ys[at] / cell) + 2048;
      if (first.has(id)) more.set(id, (more.get(id) || 0) + 1);
      else first.set(id, at);
    }
    if (first.size <= most || cell > 60) return [...first].map(([id, at]) => ({ ...points[at], more: more.get(id) || 0 }));
  }
}

// From data to pixels of an axis as logAxis or linearAxis made it.
function pixels(axis, length) {
  const [from, to] = axis.range;
  const log = axis.type === "log";
  return value => ((log ? Math.log10(value) : value) - from) / (to - from) * length;
}

const lineOf = (colour, width = 2, dash = "solid") => ({ color: colour, width, dash });

function bandTrace(x, low, high, colour, axis) {
  const known = x.map((_, at) => at).filter(at => !missing(low[at]) && !missing(high[at]));
  const back = [...known].reverse();
  return { x: [...known, ...back].map(at => x[at]), y: [...known.map(at => clip(high[at])), ...back.map(at => clip(low[at]))],
    mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: colour, hoverinfo: "skip", type: "scatter", ...axis };
}
const clip = x => Math.min(Math.max(x, 1e-30), 1e40);

function legendEntry(name, style, axis = {}) {
  return { x: [null], y: [null], mode: "lines+markers", line: lineOf(style.colour, 2.2), name: escaped(name), showlegend: true,
    marker: { color: style.colour, symbol: style.symbol, size: 9 }, ...axis };
}

function runHover(at) {
  const { runs } = store;
  const se = runs.loss_se && !missing(runs.loss_se[at]) ? ` ± ${(runs.loss_se[at] * lossFactor()).toFixed(4)}` : "";
  const loss = missing(runs.loss[at]) ? "no bound" : `bound ${(runs.loss[at] * lossFactor()).toFixed(4)}${se} ${LOSS_NAMES[route.loss]}`;
  return `<b>${escaped(labelOf(at))}</b><br>${loss}<br>${countText(paramsColumn()[at])} parameters, ${countText(runs.tokens[at])} tokens`
    + `<br>${flopsText(flopsColumn()[at])} FLOPs`;
}
