// Figures. Python makes them all; here they are shown: as an SVG at once, and by plotly.js once it has loaded, with
// hover and zoom. Filters leave traces out and give the panels that are left the room.

let library = null;
function loadPlotly() {
  library = library || new Promise((done, failed) => {
    const script = el("script");
    const loaded = () => done(window.Plotly);
    if (store.carried) {
      carriedText("library").then(text => {
        script.textContent = text;
        document.head.append(script);
        loaded();
      }, failed);
      return;
    }
    script.onload = loaded;
    script.onerror = () => failed(new Error("the drawing library did not load"));
    script.src = document.querySelector("meta[name=library]").content;
    document.head.append(script);
  });
  return library;
}

const themeName = () => document.documentElement.dataset.theme;
const CONFIG = { responsive: true, displaylogo: false, doubleClick: "reset", modeBarButtonsToRemove: ["toImage", "select2d", "lasso2d", "autoScale2d"] };
const NARROW_PX = 700, PANEL_PX = 320;

// -- filters

function shownPart(meta) {
  if (!meta) return true;
  const family = !meta.family || !store.families.includes(meta.family) || shownFamilies().includes(meta.family);
  return family && (missing(meta.budget) || shownBudget(meta.budget));
}

function shownNamed(part) {
  const [kind, ...rest] = (part.name || "").split(":"), value = rest.join(":");
  return shownPart({ family: kind === "family" ? value : null, budget: kind === "budget" ? Number(value) : null });
}

// -- the figure as it fits here and now

function arranged(content, more, width) {
  const whole = content.data.map(trace => (typeof trace.hovertext === "number" ? { ...trace, hovertext: content.data[trace.hovertext].hovertext } : trace));
  const traces = [...whole, ...more].filter(trace => shownPart(trace.meta));
  const layout = structuredClone(content.layout);
  for (const kind of ["annotations", "shapes"]) layout[kind] = (layout[kind] || []).filter(shownNamed);
  const axes = Object.keys(layout).filter(name => /^xaxis\d*$/.test(name));
  const panels = axes.map(name => ({ id: name.replace("axis", ""), x: layout[name], y: layout[`yaxis${(layout[name].anchor || "y").slice(1)}`] }));
  const filled = panels.filter(panel => traces.some(trace => (trace.xaxis || "x") === panel.id && trace.x?.some(x => !missing(x))));
  if (panels.length > 1 && filled.length && (filled.length < panels.length || width < NARROW_PX)) place(layout, panels, filled, width);
  const there = new Set(Object.keys(layout).map(name => name.replace("axis", "")));
  const data = traces.filter(trace => there.has(trace.xaxis || "x"));
  for (const kind of ["annotations", "shapes"]) {
    layout[kind] = layout[kind].filter(part => [part.xref, part.yref].every(ref => !ref || ref === "paper" || there.has(ref.split(" ")[0])));
  }
  const narrow = width < NARROW_PX;
  const labelled = layout.annotations.some(note => /^x\d*$/.test(note.xref) && note.xanchor === "left" && note.text.replace(/<[^>]*>/g, "").length > 6);
  layout.margin = { b: 54, ...layout.margin, ...(narrow ? { l: 62, r: labelled ? 60 : 12 } : {}) };
  if (narrow) {
    if (layout.legend?.orientation !== "h") layout.showlegend = false;
    for (const name of Object.keys(layout).filter(key => /^[xy]axis/.test(key))) {
      const axis = layout[name], every = Math.ceil((axis.ticktext?.length || 0) / 5);
      if (axis.title?.text) axis.title.text = wrapped(axis.title.text);
      if (name.startsWith("x") && every > 1) axis.ticktext = axis.ticktext.map((text, at) => (at % every ? "" : text));
    }
  }
  return lossFactor() === 1 || content.nats ? { data, layout } : inBits(data, layout);
}

function wrapped(text) {
  const middle = text.indexOf(" ", text.length / 2 - 4);
  return text.length > 36 && middle > 0 ? `${text.slice(0, middle)}<br>${text.slice(middle + 1)}` : text;
}

function place(layout, panels, filled, width) {
  const distinct = values => new Set(values.map(value => value.toFixed(2))).size;
  const [before, rowsBefore] = [distinct(panels.map(p => p.x.domain[0])), distinct(panels.map(p => p.y.domain[0]))];
  const columns = width < NARROW_PX ? 1 : Math.min(before, filled.length), rows = Math.ceil(filled.length / columns);
  layout.height = Math.round(rows * Math.max(PANEL_PX, (layout.height || 500) / rowsBefore));
  const gaps = [columns > 1 ? 0.1 : 0, rows > 1 ? 84 / layout.height : 0], sizes = [(1 - gaps[0] * (columns - 1)) / columns, (1 - gaps[1] * (rows - 1)) / rows];
  for (const kind of ["x", "y"]) {
    const titles = [...new Set(panels.map(panel => panel[kind].title?.text).filter(Boolean))];
    for (const panel of filled) if (titles.length === 1) panel[kind].title = { ...panel[kind].title, text: titles[0] };
  }
  filled.forEach((panel, at) => {
    const left = (at % columns) * (sizes[0] + gaps[0]), top = 1 - Math.floor(at / columns) * (sizes[1] + gaps[1]);
    panel.x.domain = [left, left + sizes[0]];
    panel.y.domain = [Math.max(0, top - sizes[1]), top];
    if (columns === 1) panel.y.showticklabels = true;
  });
  for (const panel of panels) {
    if (filled.includes(panel)) continue;
    delete layout[`xaxis${panel.id.slice(1)}`];
    delete layout[`yaxis${(panel.x.anchor || "y").slice(1)}`];
  }
  for (const kind of ["x", "y"]) {
    // axes that follow one that is gone follow the first that is left
    const ids = filled.map(panel => (kind === "x" ? panel.id : panel.x.anchor || "y"));
    filled.forEach((panel, at) => {
      if (panel[kind].matches && !ids.includes(panel[kind].matches)) at ? (panel[kind].matches = ids[0]) : delete panel[kind].matches;
    });
  }
}

// Losses of a figure are in nats per token; with one text and tokenizer bits per byte are proportional.
function inBits(data, layout) {
  const factor = lossFactor();
  const axes = Object.keys(layout).filter(name => /^[xy]axis/.test(name));
  const titled = axes.filter(name => / \(nats per token\)$/.test(layout[name].title?.text || ""));
  const followed = titled.map(name => layout[name].matches || name.replace("axis", ""));
  const scaled = new Set(axes.filter(name => titled.includes(name) || followed.includes(layout[name].matches) || followed.includes(name.replace("axis", ""))));
  const moved = (value, name) => (missing(value) ? value : layout[name].type === "log" ? value + Math.log10(factor) : value * factor);
  for (const part of [...layout.annotations, ...layout.shapes]) {
    for (const kind of ["x", "y"]) {
      const name = `${kind}axis${(part[`${kind}ref`] || kind).slice(1)}`;
      if (!scaled.has(name)) continue;
      for (const key of [kind, `${kind}0`, `${kind}1`]) {
        if (missing(part[key])) continue;
        part[key] = part.type ? part[key] * factor : moved(part[key], name);
      }
    }
  }
  const traces = data.map(trace => {
    const changed = { ...trace };
    for (const kind of ["x", "y"]) {
      if (!scaled.has(`${kind}axis${(trace[`${kind}axis`] || kind).slice(1)}`)) continue;
      changed[kind] = trace[kind].map(value => times(value, factor));
      const bars = trace[`error_${kind}`];
      if (bars) changed[`error_${kind}`] = { ...bars, array: bars.array?.map(v => times(v, factor)), arrayminus: bars.arrayminus?.map(v => times(v, factor)) };
    }
    return changed;
  });
  for (const name of scaled) {
    const axis = layout[name];
    if (axis.range) axis.range = axis.range.map(end => moved(end, name));
    for (const key of ["tickmode", "tickvals", "ticktext", "minor"]) delete axis[key];
    if (axis.title?.text) axis.title.text = axis.title.text.replace("nats per token", LOSS_NAMES.bits);
  }
  return { data: traces, layout };
}

// In the dark theme some colours of data are lighter, and those of paper and text are others.
function recoloured(text) {
  if (themeName() !== "dark") return text;
  const { light, dark } = LOOK.palettes;
  const others = Object.fromEntries(Object.keys(light).map(name => [light[name], dark[name]]));
  return text.replace(/#[0-9a-f]{6}|rgba\(\d+, \d+, \d+, /gi, colour => LOOK.dark[colour.toLowerCase()] || others[colour.toLowerCase()] || colour);
}

// -- showing it

class Figure {
  // content: as `analysis.dashboard.drawings` makes it, null: the server still has to; name: of the server; more: traces
  constructor(label, content, { name = "", laws = null, more = [] } = {}) {
    Object.assign(this, { label, content, name, laws, more });
    this.place = el("div", { class: "figure", role: "figure", "aria-label": label, style: { minHeight: `${content?.layout.height || 450}px` } },
      content ? null : el("p", { class: "note" }, "Drawing the figure."));
    this.place.addEventListener("pointerenter", () => hurry());
    this.caption = el("p", { class: "caption", title: content?.provenance }, content?.caption);
    this.box = el("div", {}, this.place, this.caption);
  }

  // Waits for the content; it is asked for once, whoever waits.
  async load() {
    if (this.content) return;
    const { laws, name } = this, { params, flops } = laws, asked = (laws.asked ||= {});
    asked[name] ||= fetch(`api/figure?${new URLSearchParams({ params, flops, name })}`).then(async answer => {
      const content = await answer.json();
      if (answer.ok) return content;
      delete asked[name];
      throw new Error(content.problem || "the server did not answer");
    });
    this.content = laws.figures[name] = await asked[name];
    Object.assign(this.caption, { textContent: this.content.caption, title: this.content.provenance });
  }

  // Takes over the drawing of the figure that was in this place, so that nothing flickers while it changes.
  show(before) {
    const width = this.place.clientWidth;
    if (!width) return;
    if (this.content) this.figure = arranged(this.content, this.more, width);
    if (before?.plot && this.name && before.name === this.name) {
      this.plot = before.plot;
      before.plot = null;
      this.place.style.minHeight = "";
      this.place.replaceChildren(this.plot);
      return;
    }
    if (!this.content) return;
    this.place.style.minHeight = `${this.figure.layout.height || 450}px`;
    const whole = !route.family && !route.budget && lossFactor() === 1 && !this.more.length && width >= NARROW_PX;
    if (!this.content.svg || !whole) return;
    const url = URL.createObjectURL(new Blob([recoloured(this.content.svg)], { type: "image/svg+xml" }));
    const image = el("img", { src: url, alt: this.label });
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    this.place.replaceChildren(image);
    this.place.dataset.shown = "svg";
  }

  async draw() {
    try {
      const [Plotly] = await Promise.all([loadPlotly(), this.load()]);
      if (!this.place.isConnected) return;
      if (!this.figure) this.show();
      const [data, layout] = this.inTheme(this.figure);
      if (this.plot) await Plotly.react(this.plot, data, layout, CONFIG);
      else {
        const plot = el("div", { class: "plot" });
        this.place.append(plot);
        await Plotly.newPlot(plot, data, layout, CONFIG);
        this.plot = plot;
        this.place.replaceChildren(plot);
        plot.on("plotly_click", event => {
          const key = event.points[0]?.customdata;
          if (typeof key === "string" && store.place.has(key)) go({ view: "run", run: key }, { replace: false });
        });
        plot.on("plotly_relayout", change => plot.owner.zoomed(Plotly, change));
      }
      this.plot.owner = this;
      this.place.style.minHeight = "";
      this.place.dataset.drawn = String(Number(this.place.dataset.drawn || 0) + 1);
    } catch (problem) {
      console.error(problem);
      this.place.replaceChildren(el("p", { class: "note warn" }, `This figure cannot be drawn: ${problem.message}`));
    }
  }

  inTheme({ data, layout }) {
    // copies, for plotly.js changes what it gets
    const own = themeName() === "dark" ? JSON.parse(recoloured(JSON.stringify({ data, layout }))) : { data: data.map(trace => ({ ...trace })), layout: structuredClone(layout) };
    return [own.data, { ...own.layout, template: { layout: LOOK.templates[themeName()] }, autosize: true }];
  }

  // The chosen ticks are for the whole range; for another one plotly.js chooses them.
  zoomed(Plotly, change) {
    const update = {};
    for (const key of Object.keys(change)) {
      const name = key.match(/^([xy]axis\d*)\.range/)?.[1], axis = name && this.figure.layout[name];
      if (!axis?.tickvals) continue;
      const now = this.plot.layout[name].range, whole = axis.range?.every((end, at) => Math.abs(end - now[at]) < 1e-9);
      const mode = whole ? "array" : "auto";
      if (this.plot.layout[name].tickmode !== mode) Object.assign(update, { [`${name}.tickmode`]: mode, [`${name}.minor.tickmode`]: mode });
    }
    if (Object.keys(update).length) Plotly.relayout(this.plot, update);
  }

  gone() {
    if (this.plot && window.Plotly) window.Plotly.purge(this.plot);
  }

  // As a file: saved by the server; from an exported file, and for figures that only the page has, by plotly.js.
  async picture(format) {
    if (this.name && !store.carried) {
      const filters = { families: route.family ? shownFamilies().join(",") : "", budgets: route.budget ? store.budgets.filter(shownBudget).join(",") : "" };
      const query = new URLSearchParams({ params: route.params, flops: route.flops, name: this.name, format, theme: themeName(), ...filters });
      const answer = await fetch(`api/figure?${query}`);
      if (!answer.ok) throw new Error((await answer.json()).problem || "The server did not answer.");
      return URL.createObjectURL(await answer.blob());
    }
    if (format === "pdf") throw new Error("PNG and SVG only: this figure exists in this page alone.");
    const Plotly = await loadPlotly(), width = 1200;
    const [data, layout] = this.inTheme(arranged(this.content, this.more, width));
    const height = (layout.height || 450) + 40;
    const hidden = el("div", { style: { position: "absolute", left: "-10000px" } });
    document.body.append(hidden);
    try {
      const title = this.content.heading || { text: escaped(this.label) };
      await Plotly.newPlot(hidden, data, { ...layout, width, height, autosize: false, title, margin: { ...layout.margin, t: this.content.top || 84 } }, { staticPlot: true });
      return await Plotly.toImage(hidden, { format, width, height, scale: format === "png" ? 2 : 1 });
    } finally {
      Plotly.purge(hidden);
      hidden.remove();
    }
  }
}

// plotly.js reads a little HTML in texts; names of runs must not be taken for it.
const escaped = text => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// A figure of the laws by its name; null while there is none.
function figureOf(name, label, options = {}) {
  const laws = lawsNow(), content = laws?.figures?.[name];
  return content === undefined || content?.data.length === 0 ? null : new Figure(label, content, { name, laws, ...options });
}
