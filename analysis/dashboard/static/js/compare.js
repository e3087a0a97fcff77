// Compare: how much more compute each family needs than a reference to reach the same loss.

const referenceNow = () => [route.ref, "ar"].find(name => store.families.includes(name)) ?? store.families[0];
const comparison = () => lawsNow()?.compare?.[referenceNow()] || null;

VIEWS.compare = {
  title: "Compare",
  render(root) {
    this.picture = null;
    const told = comparison();
    add(root, viewHead("Families compared", `Compute over ${referenceNow()} to reach the same held-out bound, from one surface law per family.`, this),
      store.families.length > 1 ? referencePick() : null, note(lawsNote()));
    if (store.families.length < 2) {
      add(root, emptyState("There is one family only.", "A comparison needs runs of at least two."));
      return [];
    }
    if (!told || told.refused) {
      add(root, emptyState(told ? told.refused : "The comparison is not there yet.", told || !lawsNow()?.done ? "" : "A family it needs has no surface law; see Health."));
      return [];
    }
    this.picture = new Figure(520, `Compute multipliers over ${referenceNow()}`, (width, how) => compareFigure(told, width, how));
    add(root, this.picture.box, multiplierTable(told), crossoverTable(told), exponentDifferences(told),
      told.warnings.length ? [el("h3", {}, "What to mind"), listOf(told.warnings)] : null,
      el("h3", {}, "Speed and quality"), emptyState("No samples were measured in this store.", "The frontier of speed against quality appears once runs carry measurements of their samples."));
    return [this.picture];
  },
  figure() { return this.picture; },
  csv() {
    const rows = shownMultipliers(comparison() || { multipliers: [] });
    const columns = ["family", "reference", "at_flops", "at_loss", "reference_flops", "multiplier", "low", "high", "extrapolated", "law"];
    return { columns, rows: rows.map(row => columns.map(name => row[name])) };
  },
};

function referencePick() {
  const select = el("select", { id: "pick-ref", on: { change: () => go({ ref: select.value }) } },
    store.families.map(family => el("option", { value: family, selected: family === referenceNow() }, family)));
  return el("label", { class: "pick" }, "Reference", select);
}

function shownMultipliers(told) {
  const families = new Set(shownFamilies());
  return told.multipliers.filter(row => families.has(row.family));
}

function compareFigure(told, width, { print = false } = {}) {
  const { curves } = told, factor = lossFactor(), data = [], values = [1], losses = [];
  const families = shownFamilies().filter(family => family !== referenceNow() && curves.family?.includes(family));
  for (const family of families) {
    const style = familyStyle(family);
    const at = curves.family.map((_, n) => n).filter(n => curves.family[n] === family);
    const take = (name, k = 1) => at.map(n => times(curves[name][n], k));
    const x = take("at_loss", factor), y = take("multiplier");
    data.push(bandTrace(x, take("low"), take("high"), seeThrough(style.colour, 0.15), {}));
    for (const dashed of [false, true]) data.push(stretch(curves, at, dashed, style, family, factor));
    const inside = at.filter(n => !curves.extrapolated[n]);
    const axis = inside.length ? inside : at;
    values.push(...y, ...axis.flatMap(n => [curves.low[n], curves.high[n]]));
    losses.push(...x);
    const points = told.multipliers.filter(row => row.family === family);
    data.push({ x: points.map(row => row.at_loss * factor), y: points.map(row => row.multiplier), mode: "markers", type: "scatter", hoverinfo: "text",
      marker: { color: style.colour, size: 9, symbol: points.map(row => style.symbol + (row.extrapolated ? "-open" : "")), line: { width: 1.4, color: style.colour } },
      hovertext: points.map(multiplierHover) });
  }
  const near = values.filter(value => value > 1e-3 && value < 1e5);
  const xaxis = linearAxis(`${lossTitle()}, better to the right`, losses);
  xaxis.range.reverse();
  const layout = { height: 520, hovermode: "closest", xaxis, yaxis: logAxis(`Compute over ${escaped(referenceNow())} at equal loss (×)`, near, plainTick, { room: 8 }),
    shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 1, y1: 1, line: { dash: "dot", width: 1.2, color: LOOK.neutral } }],
    annotations: [{ text: `${escaped(referenceNow())} itself`, xref: "paper", x: 0, xanchor: "left", y: 0, yref: "y", yanchor: "bottom", showarrow: false, xshift: 4 }] };
  return { title: `Compute multipliers over ${referenceNow()}`, data, layout, legend: print ? families.map(family => legendEntry(family, familyStyle(family))) : [] };
}

// A line with gaps where the other kind is drawn; each kind goes on to the first point of the next.
function stretch(curves, at, dashed, style, family, factor) {
  const kept = at.map((n, k) => curves.extrapolated[n] === dashed || (k > 0 && curves.extrapolated[at[k - 1]] === dashed));
  return { x: at.map((n, k) => (kept[k] ? curves.at_loss[n] * factor : null)), y: at.map((n, k) => (kept[k] ? curves.multiplier[n] : null)), mode: "lines", type: "scatter",
    line: lineOf(style.colour, dashed ? 1.5 : 2.5, dashed ? "dash" : "solid"), name: escaped(family), hoverinfo: "text",
    hovertext: at.map(n => multiplierHover({ family, reference: referenceNow(), multiplier: curves.multiplier[n], low: curves.low[n], high: curves.high[n], at_loss: curves.at_loss[n],
      at_flops: curves.at_flops[n], reference_flops: curves.reference_flops[n], extrapolated: curves.extrapolated[n] })) };
}

function multiplierHover(row) {
  return `<b>${escaped(row.family)}</b> needs ${intervalText(row.multiplier, row.low, row.high)} times the compute of ${escaped(row.reference)}<br>`
    + `at ${(row.at_loss * lossFactor()).toFixed(3)} ${LOSS_NAMES[route.loss]}, its loss at ${flopsText(row.at_flops)} FLOPs;<br>`
    + `${escaped(row.reference)} gets there with ${flopsText(row.reference_flops)} FLOPs${row.extrapolated ? " (extrapolated)" : ""}`;
}

function multiplierTable(told) {
  const rows = shownMultipliers(told);
  const columns = [{ title: "family" }, { title: "at its budget" }, { title: `at loss (${route.loss})`, class: "num" }, { title: `compute over ${referenceNow()}` },
    { title: `${referenceNow()} needs` }, { title: "" }];
  const cells = rows.map(row => [familyCell(row.family), flopsText(row.at_flops), (row.at_loss * lossFactor()).toFixed(3),
    `${intervalText(row.multiplier, row.low, row.high)}×`, flopsText(row.reference_flops), row.extrapolated ? "extrapolated" : ""]);
  const copied = () => ({ columns: ["family", "at FLOPs", "at loss", "multiplier", "low", "high", "reference FLOPs", "extrapolated"],
    rows: rows.map(r => [r.family, r.at_flops, r.at_loss * lossFactor(), r.multiplier, r.low, r.high, r.reference_flops, r.extrapolated]) });
  return el("div", {}, el("div", { class: "head" }, el("h3", {}, `Compute over ${referenceNow()} at equal loss`), copyButton(copied)), tableOf(columns, cells));
}

function crossoverTable(told) {
  const families = new Set(shownFamilies());
  const rows = [...families].flatMap(family => told.crossovers.filter(row => row.family === family));
  if (!rows.length) return el("p", { class: "muted" }, `No frontier crosses that of ${referenceNow()} within a thousand times the budgets.`);
  const columns = [{ title: "family" }, { title: "crosses at (FLOPs)" }, { title: "at loss", class: "num" }, { title: "resamples that cross", class: "num" }, { title: "" }];
  return el("div", {}, el("h3", {}, `Where frontiers cross that of ${referenceNow()}`), tableOf(columns, rows.map(row => [familyCell(row.family),
    intervalText(row.flops, row.low, row.high, flopsText), (row.loss * lossFactor()).toFixed(3), missing(row.share) ? "" : `${Math.round(100 * row.share)}%`, row.extrapolated ? "extrapolated" : ""])));
}

function exponentDifferences(told) {
  const families = new Set(shownFamilies());
  const rows = told.exponents.filter(row => families.has(row.family));
  if (!rows.length) return null;
  const columns = [{ title: "family" }, { title: "exponent of" }, { title: `less that of ${referenceNow()}` }, { title: "p", class: "num" }];
  return folded("Differences of exponents", () => tableOf(columns, rows.map(row => [familyCell(row.family), row.exponent, intervalText(row.difference, row.low, row.high), missing(row.p) ? "" : sig(row.p, 2)])));
}
