// Ask: what a budget would buy in each family. Python reads the laws over a wide grid of budgets; between its points
// the logs are joined by straight lines.

VIEWS.ask = {
  title: "Ask",
  render(root) {
    const form = askForm();
    add(root, viewHead("What a budget would buy", "The best size, tokens and loss of each family for one budget, with intervals, by its surface law; the lowest loss first.", this), form, note(lawsNote()));
    const budget = budgetNow();
    if (!budget.flops) {
      add(root, emptyState("Enter FLOPs, or GPUs, days and utilisation.", budget.problem));
      return [];
    }
    const answers = (store.families.length ? shownFamilies() : [""]).map(family => answer(family, budget)).filter(Boolean);
    this.answers = answers.sort((a, b) => (a.loss ?? Infinity) - (b.loss ?? Infinity));
    if (!answers.length) {
      add(root, noLaws(mainMethod()));
      return [];
    }
    add(root, el("p", {}, `${flopsText(budget.flops)} FLOPs${budget.words}${budget.tokens ? `, at most ${countText(budget.tokens)} tokens` : ""}`),
      warningsOf(answers, budget), answerTable(answers),
      el("p", { class: "muted" }, "The intervals of all families share the error of the held-out text: overlapping intervals do not mean that the order is open. Compare has the differences."));
    return [];
  },
  csv() {
    const columns = ["family", "flops", "params", "params_low", "params_high", "tokens", "tokens_low", "tokens_high", "loss", "loss_low", "loss_high", "limited_by_tokens", "beyond_factor"];
    return { columns, rows: (this.answers || []).map(a => [a.family, a.flops, a.params, a.params_low, a.params_high, a.tokens, a.tokens_low, a.tokens_high, a.loss, a.loss_low, a.loss_high, a.limited, a.beyond]) };
  },
};

function askForm() {
  const field = (name, words, placeholder) => el("label", {}, words, el("input", { type: "text", inputmode: "decimal", id: `ask-${name}`, name, value: route[name] || "", placeholder, autocomplete: "off" }));
  const form = el("form", { class: "ask" }, field("flop", "FLOPs", "1e22"), el("span", { class: "muted" }, "or"), field("gpus", "GPUs", "64"), field("peak", "peak of one (TFLOP/s)", "989"),
    field("days", "days", "14"), field("use", "utilisation (%)", "40"), field("tokens", "at most tokens", "no limit"), el("button", { type: "submit" }, "Ask"));
  form.addEventListener("submit", event => {
    event.preventDefault();
    go(Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim()])));
  });
  return form;
}

function amount(text) {
  const match = /^([0-9.,_]+(?:e[+-]?[0-9]+)?)\s*([kMBGT]?)$/i.exec((text || "").trim());
  if (!match) return NaN;
  const unit = { "": 1, k: 1e3, m: 1e6, b: 1e9, g: 1e9, t: 1e12 }[match[2].toLowerCase()];
  return Number(match[1].replace(/[,_]/g, "")) * unit;
}

const PEAK = 989, USE = 40, DAY_S = 86400;
function budgetNow() {
  const tokens = route.tokens ? amount(route.tokens) : 0;
  const problem = route.tokens && !(tokens > 0) ? `"${route.tokens}" is no number of tokens; write for example 300B.` : "";
  if (problem) return { problem };
  if (route.flop) {
    const flops = amount(route.flop);
    return flops > 0 && flops < 1e40 ? { flops, tokens, words: "" } : { problem: `"${route.flop}" is no number of FLOPs; write for example 1e22.` };
  }
  if (!route.gpus && !route.days) return { problem: "" };
  const gpus = amount(route.gpus), days = amount(route.days), peak = route.peak ? amount(route.peak) : PEAK, use = route.use ? amount(route.use) : USE;
  if (!(gpus > 0 && days > 0 && peak > 0 && use > 0 && use <= 100)) return { problem: "GPUs, days and peak are numbers above 0, utilisation is a percentage." };
  return { flops: gpus * peak * 1e12 * days * DAY_S * (use / 100), tokens, words: ` (${counted(gpus, "GPU")} of ${peak} TFLOP/s for ${counted(days, "day")} at ${use}%)` };
}

function answer(family, { flops, tokens }) {
  const law = Object.values(lawsOf(family)).find(one => one.ask);
  if (!law) return null;
  const grid = law.ask.frontier;
  const [first, last] = [grid.flops[0], grid.flops[grid.flops.length - 1]];
  const base = { family, flops, limited: false, beyond: flops / law.range[1], below: law.range[0] / flops, level: law.level };
  if (flops < first || flops > last) return { ...base, outside: true };
  const read = (table, name) => between(grid.flops, table[name], flops);
  for (const name of ["params", "tokens", "tokens_per_param", "loss"]) for (const end of ["", "_low", "_high"]) base[name + end] = read(grid, name + end);
  if (tokens && tokens < base.tokens) return fewer(base, law, flops, tokens, read);
  return base;
}

// Fewer tokens than the best number: the rest of the budget goes into a larger network.
function fewer(base, law, flops, tokens, read) {
  const shares = [{ share: 1, ...law.ask.frontier }, ...law.ask.fewer];
  const share = tokens / base.tokens;
  const at = shares.findIndex(one => one.share <= share);
  const limited = { ...base, limited: true, tokens, tokens_low: null, tokens_high: null, params_low: null, params_high: null };
  if (at < 1) return { ...limited, outside: true };
  const [more, less] = [shares[at - 1], shares[at]];
  const place = (Math.log(more.share) - Math.log(share)) / (Math.log(more.share) - Math.log(less.share));
  for (const name of ["params", "loss", "loss_low", "loss_high"]) {
    const [a, b] = [read(more, name), read(less, name)];
    limited[name] = missing(a) || missing(b) ? null : Math.exp(Math.log(a) + place * (Math.log(b) - Math.log(a)));
  }
  limited.tokens_per_param = limited.params ? tokens / limited.params : null;
  return { ...limited, tokens_per_param_low: null, tokens_per_param_high: null };
}

function between(xs, ys, x) {
  let at = 1;
  while (at < xs.length - 1 && xs[at] < x) at += 1;
  const [a, b] = [ys[at - 1], ys[at]];
  if (missing(a) || missing(b) || !(a > 0) || !Number.isFinite(number(a)) || !Number.isFinite(number(b))) return missing(b) ? null : number(b);
  const share = Math.log(x / xs[at - 1]) / Math.log(xs[at] / xs[at - 1]);
  return Math.exp(Math.log(a) + share * Math.log(b / a));
}

const FAR = 10, VERY_FAR = 1000;
function warningsOf(answers, { flops }) {
  const far = answers.filter(a => a.beyond > FAR || a.below > FAR);
  if (!far.length) return [];
  const most = Math.max(...far.map(a => Math.max(a.beyond, a.below)));
  const words = most > VERY_FAR ? "Intervals carry the noise of the runs, not the doubt whether the law still has this form." : "Read these as extrapolations.";
  return [note(`${flopsText(flops)} FLOPs is ${sig(most, 2)} times ${far.some(a => a.beyond > FAR) ? "beyond the largest" : "below the smallest"} budget with runs (${far.map(a => a.family).join(", ")}). ${words}`, true)];
}

function answerTable(answers) {
  const factor = lossFactor();
  const columns = [{ title: "family" }, { title: `loss (${LOSS_NAMES[route.loss]})` }, { title: "parameters" }, { title: "tokens" }, { title: "tokens per parameter" }, { title: "", class: "wrap" }];
  const text = (a, name, words) => intervalText(a[name], a[`${name}_low`], a[`${name}_high`], words);
  const rows = answers.map(a => (a.outside ? [familyCell(a.family), "", "", "", "", "too far beyond the measured budgets to say"]
    : [familyCell(a.family), lossText(a.loss * factor, times(a.loss_low, factor), times(a.loss_high, factor)), text(a, "params", amountText),
      text(a, "tokens", amountText), text(a, "tokens_per_param", sig), a.limited ? "limited by tokens: larger and shorter than the best run" : ""]));
  return tableOf(columns, rows, { caption: `Intervals at ${Math.round(100 * (answers[0].level || 0.95))}%; parameters counted: ${COUNT_NAMES[route.params] || route.params}` });
}
