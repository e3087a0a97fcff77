// IsoFLOP: loss against size at every budget, with the fitted curves and minima; a panel per family.

VIEWS.isoflop = {
  title: "IsoFLOP",
  render(root) {
    const families = shownFamilies();
    add(root, viewHead("IsoFLOP curves", "Loss against size at every budget. Click a point to open its run.", this), note(lawsNote()));
    const label = `Loss against size at every budget for ${families.join(", ")}`;
    const fitted = families.some(family => minimaOf(family).length);
    this.picture = (fitted && figureOf("isoflop", label)) || figureOf("measured", label);
    if (!shownRuns().some(finished)) add(root, emptyState("No run has finished yet.", "Points appear as runs end."));
    else if (this.picture) add(root, this.picture.box, minimaTable(families));
    return [this.picture].filter(Boolean);
  },
  csv() {
    const columns = ["family", "budget", "status", "params", "params_low", "params_high", "tokens", "loss_nats", "loss_low", "loss_high", "reason"];
    const rows = shownFamilies().flatMap(family => minimaOf(family).map(m => [family, m.nominal, m.status, m.params, m.params_low, m.params_high,
      m.tokens, m.loss, m.loss_low, m.loss_high, m.reason]));
    return { columns, rows };
  },
};

const minimaOf = family => (Object.values(lawsOf(family)).find(law => law.minima)?.minima || []).filter(m => shownBudget(m.nominal));

function minimaTable(families) {
  const factor = lossFactor();
  const columns = [{ title: "family" }, { title: "budget" }, { title: "best parameters" }, { title: "tokens" }, { title: "tokens per parameter" },
    { title: `loss (${LOSS_NAMES[route.loss]})` }, { title: "" }];
  const rows = families.flatMap(family => minimaOf(family).map(m => (m.status === "bracketed"
    ? [familyCell(family), budgetCell(m.nominal), intervalText(m.params, m.params_low, m.params_high, amountText),
      intervalText(m.tokens, m.tokens_low, m.tokens_high, amountText), intervalText(m.tokens_per_param, m.tokens_per_param_low, m.tokens_per_param_high),
      lossText(m.loss * factor, times(m.loss_low, factor), times(m.loss_high, factor)), ""]
    : [familyCell(family), budgetCell(m.nominal), "", "", "", "", { text: m.reason, class: "wrap" }])));
  const refused = families.filter(family => lawsNow()?.families?.[family]?.refused?.isoflop)
    .map(family => `${family}: ${lawsNow().families[family].refused.isoflop}`);
  return el("div", {}, rows.length ? [el("h3", {}, "Best size at each budget"), tableOf(columns, rows)] : null,
    refused.length ? [el("h3", {}, "Without a law"), listOf(refused)] : null);
}
