// Overview: the answer, progress of each family, the best loss of each budget, and one sentence on every law.

VIEWS.overview = {
  title: "Overview",
  render(root) {
    const best = bestLosses();
    this.best = best.some(({ at }) => at.size) ? figureOf("best", "Best loss of each family at every budget") : null;
    const section = answerSection(), answer = fillAnswer(section);
    fillCosts(section);
    this.picture = answer || this.best;
    add(root, viewHead("What to train", "The family and the size for a budget, and how sure these runs are of it.", this), section, note(togetherNote()),
      el("section", { class: "progress" }, el("h3", {}, "Progress"), el("div", { class: "cards" }, (store.families.length ? shownFamilies() : [""]).map(familyCard))),
      note(lawsNote()), el("section", {}, el("h3", {}, "Best loss of each budget"), bestTable(best), this.best?.box));
    return [answer, this.best].filter(Boolean);
  },
  csv() {
    return answerCsv() || bestCsv(bestLosses());
  },
};

// Laws of several sweeps are those of all their runs, which may have read different texts.
function togetherNote() {
  const done = Array.from({ length: store.rows }, (_, at) => at).filter(finished);
  const different = name => new Set(done.map(at => store.runs[name]?.[at]).filter(one => !missing(one))).size;
  const sweeps = different("sweep"), texts = different("data_fingerprint");
  if (sweeps < 2) return "";
  const apart = store.carried ? "" : " The list beside the title shows each sweep by itself.";
  return `Each law here is of the runs of ${sweeps} sweeps together${texts > 1 ? `, on ${texts} different texts or tokenizers, whose losses do not compare` : ""}.${apart}`;
}

function bestCsv(best) {
  const rows = best.flatMap(({ family, at }) => [...at].map(([budget, place]) =>
    [family, budget, store.runs.loss[place] * lossFactor(), store.runs.key[place], paramsColumn()[place], store.runs.tokens[place]]));
  return { columns: ["family", "budget", `loss (${LOSS_NAMES[route.loss]})`, "run", "params", "tokens"], rows };
}

// family -> budget -> place of its best finished run
function bestLosses() {
  const { nominal, loss } = store.runs;
  const byFamily = new Map((store.families.length ? shownFamilies() : [""]).map(family => [family, new Map()]));
  for (const at of shownRuns()) {
    if (!finished(at) || !comparable(at) || !nominal || missing(nominal[at])) continue;
    const own = byFamily.get(familyOf(at));
    const before = own?.get(nominal[at]);
    if (own && (before === undefined || loss[at] < loss[before])) own.set(nominal[at], at);
  }
  return [...byFamily].map(([family, at]) => ({ family, at: new Map([...at].sort((a, b) => a[0] - b[0])) }));
}

const STATES = [["finished", "done", "#1f7a3d"], ["running", "running", "#3d8ef6"], ["preempted", "interrupted", "#8783bd"],
  ["diverged", "diverged", "#b64d0f"], ["failed", "failed", "#b3261e"], ["cancelled", "cancelled", "#7d8590"], ["planned", "to come", "transparent"]];

function familyCard(family) {
  const counts = {};
  let total = 0;
  for (let at = 0; at < store.rows; at++) {
    if (familyOf(at) !== family) continue;
    counts[statusOf(at)] = (counts[statusOf(at)] || 0) + 1;
    total += 1;
  }
  const words = STATES.filter(([state]) => counts[state]).map(([state, word]) => `${counts[state]} ${word}`);
  const bar = el("div", { class: "bar", role: "img", "aria-label": `${family}: ${words.join(", ")}` },
    STATES.map(([state, , colour]) => el("span", { style: { width: `${(100 * (counts[state] || 0)) / total}%`, background: colour } })));
  return el("section", { class: "card", "data-family": family },
    el("h3", {}, familyMark(family), family || "all runs"), bar,
    el("p", { class: "muted" }, `${counted(total, "run")}: ${words.join(", ")}`), el("p", {}, verdictOf(family)));
}

// One sentence: compute over the reference at the largest budget, else how the best size grows.
function verdictOf(family) {
  const laws = lawsNow();
  const reference = referenceNow();
  const rows = laws?.compare?.[reference]?.multipliers?.filter(row => row.family === family) || [];
  const last = rows[rows.length - 1];
  const own = Object.values(lawsOf(family))[0];
  if (family === reference && own) return `The reference. ${frontierSentence(own)}`;
  if (last) {
    const far = last.extrapolated ? ` (${reference} read outside its budgets)` : "";
    return `Needs ${intervalText(last.multiplier, last.low, last.high)} times the compute of ${reference} to reach `
      + `${(last.at_loss * lossFactor()).toFixed(3)} ${LOSS_NAMES[route.loss]}${far}, by their ${comparison().method} laws.`;
  }
  if (own) return frontierSentence(own);
  const refused = laws?.families?.[family]?.refused;
  if (refused) return `No law yet: ${Object.values(refused)[0]}`;
  return lawsNow() ? "Being fitted." : "";
}

function frontierSentence(law) {
  const [value, low, high] = law.exponents.params;
  return `Its best size grows with compute to the power ${intervalText(value, low, high)}.`;
}

function bestTable(best) {
  const budgets = store.budgets.filter(shownBudget);
  if (!budgets.length || !best.some(({ at }) => at.size)) return emptyState("No run has finished yet.", "The table fills as runs end.");
  const columns = [{ title: "family" }, ...budgets.map(budget => ({ title: `${flopsText(budget)}`, class: "num" }))];
  const lowest = new Map(budgets.map(budget => [budget, Math.min(...best.map(({ at }) => (at.has(budget) ? store.runs.loss[at.get(budget)] : Infinity)))]));
  const rows = best.map(({ family, at }) => [familyCell(family), ...budgets.map(budget => {
    const place = at.get(budget);
    if (place === undefined) return { text: "–" };
    const loss = store.runs.loss[place];
    const link = runLink(store.runs.key[place], (loss * lossFactor()).toFixed(3));
    if (loss === lowest.get(budget)) link.style.fontWeight = "700";
    return { node: link, class: "num" };
  })]);
  return el("div", {}, tableOf(columns, rows, { caption: `Held-out loss, ${LOSS_NAMES[route.loss]}; columns are budgets in FLOPs, the lowest loss of each in bold` }),
    copyButton(() => bestCsv(best)));
}
