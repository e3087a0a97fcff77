// Health: whether to trust the laws: residuals, checks, runs left out and why, other ways to count and fit.

VIEWS.health = {
  title: "Health",
  render(root) {
    add(root, viewHead("Can these laws be trusted?", "Distance of runs from their surface, results of the checks, and the runs left out.", this), note(lawsNote()), verdictTable());
    const families = shownFamilies().filter(family => outliersOf(family));
    this.picture = families.length ? figureOf("residuals", `Residuals of the surfaces of ${families.join(", ")}`) : null;
    if (families.length) add(root, el("h3", {}, "Measured above predicted loss"), this.picture?.box, outlierTable());
    add(root, el("h3", {}, "Runs that did not finish, or are left out"), leftOutTable(), conventionTable(), checkSections(), cellsNote());
    return [this.picture].filter(Boolean);
  },
  csv() {
    return { columns: ["family", "outlier", "loss_nats", "predicted_nats", "residual_percent"], rows: outlierRows().map(p => [p.family, p.key, p.loss, p.predicted, p.residual_percent]) };
  },
};

// Outliers are those that the checks count; Python finds them.
const outliersOf = family => Object.values(lawsOf(family)).find(law => law.outliers)?.outliers;
const outlierRows = () => shownFamilies().flatMap(family => (outliersOf(family) || []).map(row => ({ family, ...row })))
  .sort((a, b) => Math.abs(b.residual_percent) - Math.abs(a.residual_percent));

const usedMethods = () => Object.keys(lawsNow()?.methods || {}).filter((name, at) => at === 0 || store.families.some(family => lawOf(family, name)));

function verdictTable() {
  const health = lawsNow()?.health || {};
  const rows = shownFamilies().flatMap(family => usedMethods().flatMap(method => {
    const law = lawOf(family, method);
    const refused = lawsNow()?.families?.[family]?.refused?.[method];
    if (!law && !refused) return [];
    const result = health[family]?.[method];
    const words = law ? result?.verdict || result?.note || "being checked" : `no law: ${refused}`;
    return [[familyCell(family), method, { text: words, class: "wrap" }, law ? law.num_runs : ""]];
  }));
  if (!rows.length) return emptyState("No law has been fitted yet.", "It needs finished runs at a few sizes and budgets.");
  return tableOf([{ title: "family" }, { title: "law" }, { title: "verdict", class: "wrap" }, { title: "runs", class: "num" }], rows);
}

function outlierTable() {
  const rows = outlierRows();
  if (!rows.length) return el("p", { class: "muted" }, "No run is an outlier of its surface.");
  const columns = [{ title: "outlier" }, { title: "run" }, { title: "loss (nats)", class: "num" }, { title: "predicted", class: "num" }, { title: "off by", class: "num" }];
  return tableOf(columns, rows.map(p => [runLink(p.key, p.key), store.place.has(p.key) ? labelOf(store.place.get(p.key)) : p.family, p.loss.toFixed(4), p.predicted.toFixed(4), `${p.residual_percent.toFixed(2)}%`]),
    { caption: "Outliers, as the checks count them", most: 30 });
}

function leftOutTable() {
  const { runs } = store;
  const places = shownRuns().filter(at => !(finished(at) && comparable(at)) && statusOf(at) !== "planned" && statusOf(at) !== "running");
  if (!places.length) return el("p", { class: "muted" }, "None: every run that has ended finished, and none is labelled, distilled or marked to be left out.");
  const counts = {};
  for (const at of places) counts[reasonOf(at)] = (counts[reasonOf(at)] || 0) + 1;
  const columns = [{ title: "run" }, { title: "family" }, { title: "description" }, { title: "reason", class: "wrap" }];
  const rows = places.map(at => [runLink(runs.key[at], runs.key[at]), familyCell(familyOf(at)), labelOf(at), (runs.sentence && runs.sentence[at]) || reasonOf(at)]);
  return el("div", {}, el("p", {}, Object.entries(counts).map(([reason, n]) => `${n} ${reason}`).join(", ")), tableOf(columns, rows, { most: 30 }));
}

function reasonOf(at) {
  if (statusOf(at) !== "finished") return statusOf(at);
  if (store.runs.excluded && store.runs.excluded[at]) return store.runs.excluded[at];
  if (store.runs.labels && store.runs.labels[at]) return "trained with labels";
  if (!comparable(at)) return "distilled";
  return "finished without a finite loss";
}

// The exponent of the best size with every way to count, from the laws that are there.
function conventionTable() {
  const names = Object.keys(store.laws).filter(name => store.laws[name].families);
  if (names.length < 2) return null;
  const columns = [{ title: "N" }, { title: "FLOPs" }, ...shownFamilies().map(family => ({ title: family }))];
  const rows = names.map(name => [...name.split("|").map(one => COUNT_NAMES[one] || one), ...shownFamilies().map(family => {
    const law = store.laws[name].families[family]?.laws?.[mainMethod()];
    return law ? intervalText(...law.exponents.params) : "";
  })]);
  return el("div", {}, el("h3", {}, "Sensitivity to how N and FLOPs are counted"), tableOf(columns, rows, { caption: `Exponent of the best size in compute, ${mainMethod()} laws; the counts fitted so far` }));
}

function checkSections() {
  const health = lawsNow()?.health || {};
  return shownFamilies().filter(family => Object.values(health[family] || {}).some(result => result.checks))
    .map(family => folded(`Checks of the laws of ${family}`, () => el("div", {}, Object.entries(health[family]).filter(([, result]) => result.checks)
      .map(([method, result]) => checksOf(result, family, method)))));
}

function checksOf(result, family, method) {
  const columns = [{ title: "check" }, { title: "grade" }, { title: "finding", class: "wrap" }];
  const rows = result.checks.map(c => [c.check, { node: el("span", { class: c.grade === "concern" ? "bad" : c.grade === "fine" ? "good" : "" }, c.grade) }, c.finding]);
  const picture = figureOf(`checks/${method}/${family}`, `The ${method} law of ${family}, fitted otherwise`);
  if (picture) figures.push(picture);
  setTimeout(() => picture?.draw());
  return el("section", {}, el("h3", {}, lawsNow().methods[method]), tableOf(columns, rows), picture?.box);
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
  return note([...twice].map(([family, ids]) => `${family}: ${counted(ids.size, "combination")} of size, budget and seed ${ids.size === 1 ? "has" : "have"} more than one run, perhaps from an earlier version of the sweep. All count in these laws.`).join(" "), true);
}
