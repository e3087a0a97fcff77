// IsoFLOP: loss against size at every budget, with the fitted curves and minima; a panel per family.

VIEWS.isoflop = {
  title: "IsoFLOP",
  render(root) {
    const families = shownFamilies();
    if (!shownRuns().some(finished)) {
      add(root, viewHead("IsoFLOP curves", "", this), emptyState("No run has finished yet.", "Points appear as runs end."));
      this.picture = null;
      return [];
    }
    const drawn = el("p", { class: "muted" });
    this.picture = new Figure(420, `Loss against size at every budget for ${families.join(", ")}`, (width, how) => {
      const figure = isoflopFigure(families, width, how || {});
      if (!how) drawn.textContent = figure.told;
      return figure;
    });
    // after zooming in, points that lay under others have room
    this.picture.onZoom = async (Plotly, layout) => {
      if (store.rows <= MOST_POINTS) return;
      const picture = this.picture;
      const figure = isoflopFigure(families, picture.box.clientWidth, {}, layout);
      drawn.textContent = figure.told;
      await Plotly.react(picture.plot, figure.data, { ...picture.plot.layout }, CONFIG);
    };
    add(root, viewHead("IsoFLOP curves", "Points are finished runs, diamonds fitted minima with intervals. Hollow and dotted: a budget without a usable minimum. "
        + "Click a point for its run.", this),
      note(lawsNote()), this.picture.box, drawn, minimaTable(families));
    return [this.picture];
  },
  figure() { return this.picture; },
  csv() {
    const columns = ["family", "budget", "status", "params", "params_low", "params_high", "tokens", "loss_nats", "loss_low", "loss_high", "reason"];
    const rows = shownFamilies().flatMap(family => minimaOf(family).map(m => [family, m.nominal, m.status, m.params, m.params_low, m.params_high,
      m.tokens, m.loss, m.loss_low, m.loss_high, m.reason]));
    return { columns, rows };
  },
};

const minimaOf = family => (lawOf(family, "isoflop")?.minima || []).filter(m => shownBudget(m.nominal));

function minimaTable(families) {
  const factor = lossFactor();
  const columns = [{ title: "family" }, { title: "budget" }, { title: "best parameters" }, { title: "tokens" }, { title: "tokens per parameter" },
    { title: `loss (${LOSS_NAMES[route.loss]})` }, { title: "" }];
  const rows = families.flatMap(family => minimaOf(family).map(m => (m.status === "bracketed"
    ? [familyCell(family), budgetCell(m.nominal), intervalText(m.params, m.params_low, m.params_high, amountText),
      intervalText(m.tokens, m.tokens_low, m.tokens_high, amountText), intervalText(m.tokens_per_param, m.tokens_per_param_low, m.tokens_per_param_high),
      lossText(m.loss * factor, times(m.loss_low, factor), times(m.loss_high, factor)), ""]
    : [familyCell(family), budgetCell(m.nominal), "", "", "", "", { text: m.reason, class: "wrap" }])));
  const refused = families.filter(f => lawsNow()?.families?.[f]?.refused?.isoflop)
    .map(f => `${f}: ${lawsNow().families[f].refused.isoflop}`);
  return el("div", {}, rows.length ? [el("h3", {}, "Best size at each budget"), tableOf(columns, rows)] : null,
    refused.length ? [el("h3", {}, "Without a law"), listOf(refused)] : null);
}
const times = (x, factor) => (missing(x) ? null : x * factor);

function isoflopFigure(families, width, { print = false }, zoom) {
  const grid = panelGrid(families.length, width);
  const factor = lossFactor();
  const points = isoflopPoints(families);
  const lows = families.flatMap(f => minimaOf(f).flatMap(m => [m.params_low, m.params_high])).filter(x => !missing(x));
  const sizes = points.map(p => p.x);
  const [least, most] = [Math.min(...sizes) / 3, Math.max(...sizes) * 3];
  const xaxis = logAxis("", sizes.concat(lows.filter(x => x < most && x > least)), countText, { room: grid.width / 62 });
  const yaxis = linearAxis("", points.map(p => p.y));
  const shownX = zoom?.xaxis ? { ...xaxis, range: zoom.xaxis } : xaxis, shownY = zoom?.yaxis ? { ...yaxis, range: zoom.yaxis } : yaxis;
  const toX = pixels(shownX, grid.width), toY = pixels(shownY, grid.height);
  const near = zoom ? points.filter(p => inRange(toX(p.x), grid.width) && inRange(toY(p.y), grid.height)) : points;
  const kept = thinned(near, p => [toX(p.x), toY(p.y)], print ? 6000 : MOST_POINTS);
  const data = [], annotations = [], layout = { height: grid.total, annotations, hovermode: "closest" };
  families.forEach((family, at) => {
    const axis = axisNames(at);
    data.push(...curveTraces(family, axis, factor), ...pointTraces(kept.filter(p => p.family === family), family, axis), minimaTrace(family, axis, factor));
    placePanel(layout, grid, at, families, shownX, shownY);
  });
  const told = kept.length < near.length ? `${kept.length.toLocaleString()} of ${near.length.toLocaleString()} points are drawn; the others lie on top of these. Zoom in to see them apart.` : "";
  const legend = store.budgets.filter(shownBudget).map(b => legendEntry(flopsText(b), { colour: store.budgetColour.get(b), symbol: "circle" }));
  return { title: "IsoFLOP curves", data, layout, told, legend: print ? legend : [] };
}
const inRange = (place, length) => place >= -2 && place <= length + 2;

function panelGrid(count, width) {
  const columns = Math.max(1, Math.min(count, Math.floor(width / 330), count === 4 ? 2 : 4));
  const rows = Math.ceil(count / columns);
  const height = count === 1 ? 480 : rows === 1 ? 380 : 260;
  return { columns, rows, height, width: (width - 100) / columns - 26, total: rows * (height + 46) + 70, outer: width };
}

const axisNames = at => ({ xaxis: at ? `x${at + 1}` : "x", yaxis: at ? `y${at + 1}` : "y", type: "scatter" });

function placePanel(layout, grid, at, families, xaxis, yaxis) {
  const column = at % grid.columns, row = Math.floor(at / grid.columns);
  const gapX = grid.columns > 1 ? 0.03 : 0, wide = (1 - gapX * (grid.columns - 1)) / grid.columns;
  const gapY = 46 / (grid.total - 84), tall = (1 - gapY * (grid.rows - 1)) / grid.rows;
  const left = column * (wide + gapX), top = 1 - row * (tall + gapY);
  const name = at ? String(at + 1) : "";
  const lowest = at + grid.columns >= families.length;
  layout[`xaxis${name}`] = { ...xaxis, domain: [left, left + wide], anchor: `y${name}`, matches: at ? "x" : undefined,
    title: { text: lowest ? paramsTitle() : "" } };
  layout[`yaxis${name}`] = { ...yaxis, domain: [Math.max(0, top - tall), top], anchor: `x${name}`, matches: at ? "y" : undefined,
    showticklabels: column === 0, title: { text: column === 0 ? lossTitle() : "" } };
  if (families.length > 1) {
    layout.annotations.push({ text: `<b>${escaped(families[at])}</b>`, x: left, y: top, xref: "paper", yref: "paper", xanchor: "left",
      yanchor: "bottom", showarrow: false, font: { size: 14, color: familyStyle(families[at]).colour } });
  }
}

function isoflopPoints(families) {
  const wanted = new Set(families), params = paramsColumn(), factor = lossFactor();
  const { nominal, loss } = store.runs;
  const points = [], place = new Map([...wanted].map((family, n) => [family, n * 64]));
  const number = new Map(store.budgets.map((budget, n) => [budget, n % 64]));
  for (const at of shownRuns()) {
    const family = familyOf(at);
    if (!finished(at) || !wanted.has(family) || !(params[at] > 0)) continue;
    const budget = nominal ? nominal[at] : null;
    points.push({ x: params[at], y: loss[at] * factor, at, budget, family, group: place.get(family) + (number.get(budget) || 0) });
  }
  return points;
}

function pointTraces(points, family, axis) {
  const usable = new Map(minimaOf(family).map(m => [m.nominal, m.status === "bracketed"]));
  return [{ ...axis, x: points.map(p => p.x), y: points.map(p => p.y), mode: "markers",
    marker: { size: points.length > 300 ? 5 : 7, color: points.map(p => store.budgetColour.get(p.budget) || LOOK.neutral), line: { width: 0 },
      symbol: points.map(p => (usable.get(p.budget) === false ? "circle-open" : "circle")) },
    customdata: points.map(p => store.runs.key[p.at]), hoverinfo: "text",
    hovertext: points.map(p => runHover(p.at) + (p.more ? `<br>and ${p.more} more here` : "")) }];
}

function curveTraces(family, axis, factor) {
  const law = lawOf(family, "isoflop");
  if (!law) return [];
  const traces = law.minima.flatMap((m, at) => {
    const curve = law.curves[at];
    if (!curve || !shownBudget(m.nominal)) return [];
    return [{ ...axis, x: curve.params, y: curve.loss.map(loss => loss * factor), mode: "lines", hoverinfo: "skip",
      line: { ...lineOf(store.budgetColour.get(m.nominal) || LOOK.neutral, 1.6, m.status === "bracketed" ? "solid" : "dot"), simplify: false } }];
  });
  const path = law.frontier, inside = path.flops.map((_, at) => at).filter(at => !path.extrapolated[at]);
  traces.push({ ...axis, x: inside.map(at => path.params[at]), y: inside.map(at => path.loss[at] * factor), mode: "lines", hoverinfo: "skip",
    line: lineOf(LOOK.neutral, 1.5, "dash") });
  return traces;
}

function minimaTrace(family, axis, factor) {
  const minima = minimaOf(family).filter(m => m.status === "bracketed");
  const bars = (name, scale) => ({ type: "data", symmetric: false, thickness: 1.2, width: 3, color: LOOK.neutral,
    array: minima.map(m => bar(m[`${name}_high`], m[name]) * scale), arrayminus: minima.map(m => bar(m[name], m[`${name}_low`]) * scale) });
  return { ...axis, x: minima.map(m => m.params), y: minima.map(m => m.loss * factor), mode: "markers", hoverinfo: "text",
    marker: { symbol: "diamond", size: 11, color: minima.map(m => store.budgetColour.get(m.nominal) || LOOK.neutral), line: { width: 1, color: "#ffffff" } },
    error_x: bars("params", 1), error_y: bars("loss", factor),
    hovertext: minima.map(m => `<b>best at ${flopsText(m.nominal)} FLOPs</b><br>${intervalText(m.params, m.params_low, m.params_high, amountText)} parameters`
      + `<br>${intervalText(m.tokens, m.tokens_low, m.tokens_high, amountText)} tokens<br>`
      + `loss ${lossText(m.loss * factor, times(m.loss_low, factor), times(m.loss_high, factor))}`) };
}
const bar = (high, low) => (missing(high) || missing(low) || !Number.isFinite(high - low) ? 0 : Math.max(0, high - low));
