// Health: whether to believe the laws: residuals, checks, runs left out and why, other ways to count and fit.

VIEWS.health = {
  title: "Health",
  render(root) {
    const families = shownFamilies().filter(family => lawOf(family, "surface"));
    this.families = families;
    this.residuals = families.map(residualsOf);
    add(root, viewHead("Whether to believe the laws", "How far runs lie from their surface, what the checks say, which runs are left out and why.", this), note(lawsNote()),
      verdictTable());
    this.picture = null;
    if (families.length) {
      this.picture = new Figure(420, `Residuals of the surfaces of ${families.join(", ")}`, (width, how) => residualFigure(this.residuals, width, how));
      add(root, el("h3", {}, "Measured above predicted loss"), this.picture.box, outlierTable(this.residuals));
    }
    add(root, el("h3", {}, "Runs that did not finish, or are left out"), leftOutTable(), conventionTable(), checkSections(), cellsNote());
    return this.picture ? [this.picture] : [];
  },
  figure() { return this.picture; },
  csv() {
    const rows = this.residuals.flatMap(({ family, points }) => points.map(p => [family, store.runs.key[p.at], flopsColumn()[p.at], store.runs.loss[p.at], p.predicted, p.percent, p.outlier]));
    return { columns: ["family", "run", "flops", "loss_nats", "predicted_nats", "residual_percent", "outlier"], rows };
  },
};

// The measure of `figures.surface_residuals`: 100 (log loss - log predicted); outliers by the median distance.
const OUTLIER_SD = 5;
function residualsOf(family) {
  const { E, A, B, alpha, beta } = lawOf(family, "surface").theta;
  const params = paramsColumn(), { tokens, loss } = store.runs;
  const points = shownRuns().filter(at => familyOf(at) === family && finished(at)).map(at => {
    const predicted = E + A * params[at] ** -alpha + B * tokens[at] ** -beta;
    return { at, predicted, percent: 100 * Math.log(loss[at] / predicted) };
  });
  const sizes = points.map(p => Math.abs(p.percent)).sort((a, b) => a - b);
  const spread = 1.4826 * (sizes[Math.floor(sizes.length / 2)] || 0);
  for (const point of points) point.outlier = Math.abs(point.percent) > OUTLIER_SD * spread;
  return { family, points, spread };
}

function verdictTable() {
  const health = lawsNow()?.health || {};
  const rows = shownFamilies().flatMap(family => ["surface", "isoflop"].flatMap(method => {
    const law = lawOf(family, method);
    const refused = lawsNow()?.families?.[family]?.refused?.[method];
    if (!law && !refused) return [];
    const found = health[family]?.[method];
    const words = law ? found?.verdict || found?.note || "being checked" : `no law: ${refused}`;
    return [[familyCell(family), method, law ? law.num_runs : "", { text: words, class: "wrap" }]];
  }));
  if (!rows.length) return emptyState("No law has been fitted yet.", "It needs finished runs at a few sizes and budgets.");
  return tableOf([{ title: "family" }, { title: "law" }, { title: "runs", class: "num" }, { title: "verdict", class: "wrap" }], rows);
}

function residualFigure(residuals, width, { print = false } = {}) {
  const columns = width < 700 ? 1 : 2;
  const data = [], layout = { height: columns === 1 ? 640 : 400, hovermode: "closest" };
  const all = residuals.flatMap(({ family, points }, group) => points.map(p => ({ ...p, family, group })));
  const sizes = all.map(p => Math.abs(p.percent)).sort((a, b) => a - b);
  const reach = Math.max(3 * (sizes[Math.floor(0.97 * sizes.length)] || 1), 0.1);
  const shown = all.map(p => ({ ...p, y: Math.max(-reach, Math.min(reach, p.percent)) }));
  const flops = flopsColumn(), params = paramsColumn();
  const scales = [[at => flops[at], flopsTitle(), computeText], [at => store.runs.tokens[at] / params[at], "Training tokens per parameter", plainTick]];
  const yaxis = linearAxis("Measured above predicted (%)", [...shown.map(p => p.y), 0]);
  scales.forEach(([value, title, text], place) => {
    const axis = axisNames(place), name = place ? "2" : "";
    const points = shown.map(p => ({ ...p, x: value(p.at) })).filter(p => p.x > 0);
    const xaxis = logAxis(title, points.map(p => p.x), text, { room: width / columns / 110 });
    const toX = pixels(xaxis, width / columns - 60), toY = pixels(yaxis, 300);
    const kept = thinned(points, p => [toX(p.x), toY(p.y)], print ? 6000 : MOST_POINTS / 2);
    for (const { family } of residuals) data.push(residualTrace(kept.filter(p => p.family === family), family, axis));
    layout[`xaxis${name}`] = { ...xaxis, domain: columns === 1 ? [0, 1] : [place * 0.52, place * 0.52 + 0.48], anchor: `y${name}` };
    layout[`yaxis${name}`] = { ...yaxis, domain: columns === 1 ? [place ? 0 : 0.57, place ? 0.43 : 1] : [0, 1], anchor: `x${name}`, matches: place ? "y" : undefined,
      title: { text: place && columns === 2 ? "" : yaxis.title.text } };
  });
  layout.shapes = ["", "2"].map(name => ({ type: "line", xref: `x${name} domain`, yref: `y${name}`, x0: 0, x1: 1, y0: 0, y1: 0, line: { width: 1.2, color: LOOK.neutral } }));
  return { title: "Residuals of the loss surfaces", data, layout, legend: print ? residuals.map(({ family }) => legendEntry(family, familyStyle(family))) : [] };
}

function residualTrace(points, family, axis) {
  const style = familyStyle(family);
  return { ...axis, x: points.map(p => p.x), y: points.map(p => p.y), mode: "markers", name: escaped(family), hoverinfo: "text",
    marker: { color: style.colour, size: points.map(p => (p.outlier ? 9 : 6)), opacity: 0.8, line: { width: 0 }, symbol: points.map(p => (p.outlier ? `${style.symbol}-open` : style.symbol)) },
    customdata: points.map(p => store.runs.key[p.at]), hovertext: points.map(p => `${runHover(p.at)}<br>${p.percent >= 0 ? "+" : ""}${p.percent.toFixed(2)}% off the surface${p.outlier ? ", an outlier" : ""}`) };
}

function outlierTable(residuals) {
  const rows = residuals.flatMap(({ family, points }) => points.filter(p => p.outlier).map(p => ({ family, ...p }))).sort((a, b) => Math.abs(b.percent) - Math.abs(a.percent));
  if (!rows.length) return el("p", { class: "muted" }, `No run lies further than ${OUTLIER_SD} robust standard deviations from its surface.`);
  const columns = [{ title: "outlier" }, { title: "run" }, { title: "loss (nats)", class: "num" }, { title: "predicted", class: "num" }, { title: "off by", class: "num" }];
  return tableOf(columns, rows.map(p => [runLink(store.runs.key[p.at], store.runs.key[p.at]), labelOf(p.at), store.runs.loss[p.at].toFixed(4), p.predicted.toFixed(4), `${p.percent.toFixed(2)}%`]),
    { caption: `Further than ${OUTLIER_SD} robust standard deviations from the surface`, most: 30 });
}

function leftOutTable() {
  const { runs } = store;
  const places = shownRuns().filter(at => !finished(at) && statusOf(at) !== "planned" && statusOf(at) !== "running");
  if (!places.length) return el("p", { class: "muted" }, "None: every run that has ended finished, and none is marked to be left out.");
  const counts = {};
  for (const at of places) counts[reasonOf(at)] = (counts[reasonOf(at)] || 0) + 1;
  const columns = [{ title: "run" }, { title: "family" }, { title: "what" }, { title: "reason", class: "wrap" }];
  const rows = places.map(at => [runLink(runs.key[at], runs.key[at]), familyCell(familyOf(at)), labelOf(at), (runs.sentence && runs.sentence[at]) || reasonOf(at)]);
  return el("div", {}, el("p", {}, Object.entries(counts).map(([why, n]) => `${n} ${why}`).join(", ")), tableOf(columns, rows, { most: 30 }));
}

function reasonOf(at) {
  if (statusOf(at) !== "finished") return statusOf(at);
  if (store.runs.excluded && store.runs.excluded[at]) return store.runs.excluded[at];
  return "finished without a finite loss";
}

// The exponent of the best size with every way to count, from the laws that are there.
function conventionTable() {
  const names = Object.keys(store.laws).filter(name => store.laws[name].families);
  if (names.length < 2) return null;
  const columns = [{ title: "N" }, { title: "FLOPs" }, ...shownFamilies().map(family => ({ title: family }))];
  const rows = names.map(name => [...name.split("|").map(one => COUNT_NAMES[one] || one), ...shownFamilies().map(family => {
    const law = store.laws[name].families[family]?.laws?.surface;
    return law ? intervalText(...law.exponents.params) : "";
  })]);
  return el("div", {}, el("h3", {}, "Sensitivity to how N and FLOPs are counted"), tableOf(columns, rows, { caption: "Exponent of the best size in compute, surface laws; the counts looked at so far" }));
}

function checkSections() {
  const health = lawsNow()?.health || {}, sections = [];
  for (const family of shownFamilies()) {
    for (const method of ["surface", "isoflop"]) {
      const found = health[family]?.[method];
      if (found?.checks) sections.push(folded(`Checks of the ${method} law of ${family}`, () => checksOf(found, family, method)));
    }
  }
  return sections;
}

function checksOf(found, family, method) {
  const columns = [{ title: "check" }, { title: "grade" }, { title: "finding", class: "wrap" }];
  const rows = found.checks.map(c => [c.check, { node: el("span", { class: c.grade === "concern" ? "bad" : c.grade === "fine" ? "good" : "" }, c.grade) }, c.finding]);
  const picture = new Figure(found.figure.layout.height || 500, `The ${method} law of ${family}, fitted otherwise`, () => ({ title: `${family}: fitted otherwise`,
    data: structuredClone(found.figure.data), layout: { ...structuredClone(found.figure.layout), title: undefined, margin: { l: 10, t: 40 } } }), { drawnBefore: true });
  setTimeout(() => picture.draw());
  return el("div", {}, tableOf(columns, rows), picture.box);
}

// Runs of one size, budget and seed that are there twice differ in something a law does not see.
function cellsNote() {
  const { runs } = store;
  if (!runs.size || !runs.nominal) return null;
  const cells = new Set(), twice = new Map();
  for (const at of shownRuns().filter(finished)) {
    const id = JSON.stringify([familyOf(at), runs.size[at], runs.nominal[at], runs.seed?.[at]]);
    if (cells.has(id)) twice.set(familyOf(at), (twice.get(familyOf(at)) || new Set()).add(id));
    cells.add(id);
  }
  if (!twice.size) return null;
  return note([...twice].map(([family, ids]) => `${family}: more than one run stands in ${counted(ids.size, "cell")} of one size, budget and seed, of an earlier version of the sweep, say. All count in the laws here.`).join(" "), true);
}
