// Compare: how much more compute each family needs than a reference to reach the same loss.

const referenceNow = () => [route.ref, "ar"].find(name => store.families.includes(name)) ?? store.families[0];
const comparison = () => lawsNow()?.compare?.[referenceNow()] || null;

VIEWS.compare = {
  title: "Compare",
  render(root) {
    this.picture = null;
    const result = comparison(), reference = referenceNow();
    add(root, viewHead("Families compared", `Compute each family needs over ${reference} to reach the same held-out loss, from one law per family.`, this),
      store.families.length > 1 ? referencePick() : null, note(lawsNote()));
    if (store.families.length < 2) {
      add(root, emptyState("There is one family only.", "A comparison needs runs of at least two."));
      return [];
    }
    if (!result || result.refused) {
      add(root, emptyState(result ? result.refused : "The comparison is not there yet.", result || !lawsNow()?.done ? "" : "A family it needs has no surface law; see Health."));
      return [];
    }
    this.picture = figureOf(`compare/${reference}`, `Compute multipliers over ${reference}`);
    add(root, this.picture?.box, multiplierTable(result), crossoverTable(result), exponentDifferences(result),
      result.warnings.length ? [el("h3", {}, "Caveats"), listOf(result.warnings)] : null);
    return [this.picture].filter(Boolean);
  },
  csv() {
    const columns = ["family", "reference", "at_flops", "at_loss", "reference_flops", "multiplier", "low", "high", "extrapolated", "law"];
    return { columns, rows: shownOf(comparison()?.multipliers || []).map(row => columns.map(name => row[name])) };
  },
};

const shownOf = rows => shownFamilies().flatMap(family => rows.filter(row => row.family === family));

function referencePick() {
  const select = el("select", { id: "pick-ref", on: { change: () => go({ ref: select.value }) } },
    store.families.map(family => el("option", { value: family, selected: family === referenceNow() }, family)));
  return el("label", { class: "pick" }, "Reference", select);
}

function multiplierTable(result) {
  const rows = shownOf(result.multipliers);
  const columns = [{ title: "family" }, { title: "at its budget" }, { title: `at loss (${route.loss})`, class: "num" }, { title: `compute over ${referenceNow()}` },
    { title: `${referenceNow()} needs` }, { title: "" }];
  const cells = rows.map(row => [familyCell(row.family), flopsText(row.at_flops), (row.at_loss * lossFactor()).toFixed(3),
    `${intervalText(row.multiplier, row.low, row.high)}×`, flopsText(row.reference_flops), row.extrapolated ? "extrapolated" : ""]);
  const tableToCopy = () => ({ columns: ["family", "at FLOPs", "at loss", "multiplier", "low", "high", "reference FLOPs", "extrapolated"],
    rows: rows.map(r => [r.family, r.at_flops, r.at_loss * lossFactor(), r.multiplier, r.low, r.high, r.reference_flops, r.extrapolated]) });
  return el("div", {}, el("div", { class: "head" }, el("h3", {}, `Compute over ${referenceNow()} at equal loss`), copyButton(tableToCopy)), tableOf(columns, cells, { most: 40 }));
}

function crossoverTable(result) {
  const rows = shownOf(result.crossovers);
  if (!rows.length) return el("p", { class: "muted" }, `No frontier crosses that of ${referenceNow()} within the measured budgets.`);
  const columns = [{ title: "family" }, { title: "crosses at (FLOPs)" }, { title: "at loss", class: "num" }, { title: "resamples that cross", class: "num" }];
  return el("div", {}, el("h3", {}, `Where frontiers cross that of ${referenceNow()}`), tableOf(columns, rows.map(row => [familyCell(row.family),
    intervalText(row.flops, row.low, row.high, flopsText), (row.loss * lossFactor()).toFixed(3), missing(row.share) ? "" : `${Math.round(100 * row.share)}%`])));
}

function exponentDifferences(result) {
  const rows = shownOf(result.exponents);
  if (!rows.length) return null;
  const columns = [{ title: "family" }, { title: "exponent of" }, { title: `minus that of ${referenceNow()}` }, { title: "p", class: "num" }];
  return folded("Differences of exponents", () => tableOf(columns, rows.map(row => [familyCell(row.family), row.exponent, intervalText(row.difference, row.low, row.high), missing(row.p) ? "" : sig(row.p, 2)])));
}
