// Ask: what a budget would buy in each family. The laws were read over a wide grid of budgets where they were
// fitted; between its points the logs are joined by straight lines.

VIEWS.ask = {
  title: "Ask",
  render(root) {
    this.picture = null;
    const form = askForm();
    add(root, viewHead("What a budget would buy", "For each family the best size, tokens and loss, each with its interval, from its surface law.", this), form, note(lawsNote()));
    const asked = budgetAsked();
    if (!asked.flops) {
      add(root, emptyState("Enter FLOPs, or GPUs, days and utilisation.", asked.problem));
      return [];
    }
    const answers = shownFamilies().map(family => answer(family, asked)).filter(Boolean);
    this.answers = answers;
    if (!answers.length) {
      add(root, noLaws("surface"));
      return [];
    }
    this.picture = new Figure(Math.max(240, 60 + 44 * answers.length), "Expected loss of each family", (width, how) => askFigure(answers, width, how));
    add(root, el("p", {}, `${flopsText(asked.flops)} FLOPs${asked.words}${asked.tokens ? `, at most ${countText(asked.tokens)} tokens` : ""}`),
      ...warningsOf(answers, asked), answerTable(answers), this.picture.box);
    return [this.picture];
  },
  figure() { return this.picture; },
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
function budgetAsked() {
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
  const law = lawOf(family, "surface");
  if (!law) return null;
  const grid = law.ask.frontier;
  const [first, last] = [grid.flops[0], grid.flops[grid.flops.length - 1]];
  const told = { family, flops, limited: false, beyond: flops / law.range[1], below: law.range[0] / flops, level: law.level };
  if (flops < first || flops > last) return { ...told, outside: true };
  const read = (table, name) => between(grid.flops, table[name], flops);
  for (const name of ["params", "tokens", "tokens_per_param", "loss"]) for (const end of ["", "_low", "_high"]) told[name + end] = read(grid, name + end);
  if (tokens && tokens < told.tokens) return fewer(told, law, flops, tokens, read);
  return told;
}

// Fewer tokens than the best number: the rest of the budget goes into a larger network.
function fewer(told, law, flops, tokens, read) {
  const shares = [{ share: 1, ...law.ask.frontier }, ...law.ask.fewer];
  const share = tokens / told.tokens;
  const at = shares.findIndex(one => one.share <= share);
  const limited = { ...told, limited: true, tokens, tokens_low: null, tokens_high: null, params_low: null, params_high: null };
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
  const columns = [{ title: "family" }, { title: "parameters" }, { title: "tokens" }, { title: "tokens per parameter" }, { title: `loss (${LOSS_NAMES[route.loss]})` }, { title: "", class: "wrap" }];
  const text = (a, name, words) => intervalText(a[name], a[`${name}_low`], a[`${name}_high`], words);
  const rows = answers.map(a => (a.outside ? [familyCell(a.family), "", "", "", "", "this is too far from its runs for any answer"]
    : [familyCell(a.family), text(a, "params", amountText), text(a, "tokens", amountText), text(a, "tokens_per_param", sig),
      lossText(a.loss * factor, times(a.loss_low, factor), times(a.loss_high, factor)), a.limited ? "limited by tokens: larger and shorter than the best run" : ""]));
  return tableOf(columns, rows, { caption: `Intervals at ${Math.round(100 * (answers[0].level || 0.95))}%; ${paramsTitle().toLowerCase()}` });
}

function askFigure(answers, width, { print = false } = {}) {
  const factor = lossFactor();
  const known = answers.filter(a => !a.outside).sort((a, b) => b.loss - a.loss);
  const values = known.flatMap(a => [a.loss, a.loss_low, a.loss_high].filter(v => !missing(v)).map(v => v * factor));
  const data = known.map(a => ({ x: [a.loss * factor], y: [escaped(a.family)], mode: "markers", type: "scatter", hoverinfo: "text", showlegend: false,
    marker: { color: familyStyle(a.family).colour, symbol: familyStyle(a.family).symbol, size: 11 },
    error_x: { type: "data", symmetric: false, array: [bar(a.loss_high, a.loss) * factor], arrayminus: [bar(a.loss, a.loss_low) * factor], color: familyStyle(a.family).colour, thickness: 1.6, width: 4 },
    hovertext: [`<b>${escaped(a.family)}</b><br>${lossText(a.loss * factor, times(a.loss_low, factor), times(a.loss_high, factor))}`] }));
  return { title: `Expected loss at ${flopsText(answers[0].flops)} FLOPs`, data, layout: { height: Math.max(240, 90 + 44 * known.length), margin: { l: 90 },
    xaxis: linearAxis(lossTitle(), values, { pad: 0.08 }), yaxis: { type: "category", automargin: true } }, print };
}
