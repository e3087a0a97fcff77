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

const nextFrame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
const themeName = () => document.documentElement.dataset.theme;
const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["toImage", "select2d", "lasso2d", "autoScale2d"] };

function framed(figure, box) {
  const narrow = box && box.clientWidth < 620;
  const margin = { l: narrow ? 58 : 76, r: narrow ? 12 : 26, t: 30, b: 54, ...figure.layout.margin };
  return { ...figure.layout, template: { layout: LOOK.templates[themeName()] }, autosize: true, showlegend: false, margin };
}

// One box, one figure: make() is called when the box has its width, again when it is drawn anew.
class Figure {
  constructor(height, label, make, { onClick = null } = {}) {
    this.make = make;
    this.onClick = onClick;
    this.box = el("div", { class: "figure waiting", role: "img", "aria-label": label, style: { minHeight: `${height}px` } },
      el("div", { class: "wait" }, "Drawing"));
    this.box.figure = this;
    this.drawn = false;
  }

  async draw() {
    try {
      const Plotly = await loadPlotly();
      if (!this.box.isConnected) return;
      const started = performance.now();
      const figure = this.make(this.box.clientWidth);
      if (!this.drawn) this.box.replaceChildren();
      this.box.classList.remove("waiting");
      await Plotly.react(this.box, figure.data, framed(figure, this.box), CONFIG);
      this.box.style.minHeight = "";
      if (!this.drawn) this.listen();
      this.drawn = true;
      this.box.dataset.drawn = String(Number(this.box.dataset.drawn || 0) + 1);
      this.box.dataset.tookMs = String(Math.round(performance.now() - started));
    } catch (problem) {
      this.box.replaceChildren(el("p", { class: "note warn" }, `This figure cannot be drawn: ${problem.message}`));
    }
  }

  listen() {
    this.box.on("plotly_click", event => {
      const key = event.points[0]?.customdata;
      if (typeof key === "string") go({ view: "run", run: key }, { replace: false });
    });
    this.box.on("plotly_relayout", change => {
      if (this.onZoom && Object.keys(change).some(name => /range|autorange/.test(name))) this.onZoom(change);
    });
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
// points: {x, y, ...}; scale: from data to pixels. Each kept point tells in `more` how many it stands for.
function thinned(points, toPixel, most) {
  if (points.length <= most) return points;
  const places = points.map(toPixel);
  for (let cell = 2; ; cell *= 1.35) {
    const kept = new Map();
    for (let at = 0; at < points.length; at++) {
      const id = `${points[at].group}/${Math.round(places[at][0] / cell)}/${Math.round(places[at][1] / cell)}`;
      const first = kept.get(id);
      if (first) first.more += 1;
      else kept.set(id, { ...points[at], more: 0 });
    }
    if (kept.size <= most || cell > 60) return [...kept.values()];
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
