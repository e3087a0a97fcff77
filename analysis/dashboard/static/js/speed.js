// Speed: perplexity and entropy of samples over the speed at which they are made, where a sweep has samples.

const speedNow = () => lawsNow()?.speed || null;

VIEWS.speed = {
  title: "Speed",
  render(root) {
    const result = speedNow();
    this.picture = null;
    add(root, viewHead("Speed against quality", "How fast texts are made, against their perplexity under a judge and their entropy, over samplers and steps.", this));
    if (!result || result.refused) {
      add(root, emptyState(result ? result.refused : lawsNote() || "There are no samples.", result ? "" : "`scaling sample SWEEP` makes them."));
      return [];
    }
    this.picture = figureOf("speed", "Perplexity and entropy of samples over the speed at which they are made");
    add(root, el("p", {}, result.sentence), result.notes.length ? listOf(result.notes) : null, this.picture?.box,
      result.leads.map(([at, table]) => el("div", {}, el("h3", {}, `The best at each speed, ${at}`), rankingTable(table, "Perplexity and entropy at both ends of the range; share: of resamples, at its middle."))),
      folded("The front of each family", () => rankingTable(result.fronts, result.head)));
    return [this.picture].filter(Boolean);
  },
  csv() {
    const points = shownOf(speedNow()?.points || []), columns = Object.keys(points[0] || {});
    return { columns, rows: points.map(row => columns.map(name => row[name])) };
  },
};
