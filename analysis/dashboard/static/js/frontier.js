// Frontier: the best run at every budget, for all families, with bands; published laws to lay over them.

const PANELS = [["loss", () => lossTitle()], ["params", () => paramsTitle()], ["tokens", () => "Training tokens"], ["tokens_per_param", () => "Training tokens per parameter"]];
const DASHES = ["dash", "dot", "dashdot", "longdash", "longdashdot"];

VIEWS.frontier = {
  title: "Frontier",
  render(root) {
    const method = methodNow();
    const families = shownFamilies().filter(family => lawOf(family, method));
    this.families = families;
    this.picture = null;
    add(root, viewHead("Compute-optimal frontier", "Loss, size and tokens of the best run at every budget. Bands are intervals; dashed lines lie beyond the budgets with runs.", this),
      lawPick(), note(lawsNote()));
    if (!families.length) {
      add(root, noLaws(method));
      return [];
    }
    this.picture = new Figure(760, `Compute-optimal frontiers of ${families.join(", ")}`, (width, how) => frontierFigure(families, method, width, how));
    add(root, this.picture.box, publishedPick(), exponentTable(families, method));
    return [this.picture];
  },
  figure() { return this.picture; },
  csv() {
    const method = methodNow();
    const names = ["flops", ...PANELS.flatMap(([name]) => [name, `${name}_low`, `${name}_high`]), "extrapolated"];
    const rows = this.families.flatMap(family => {
      const line = lawOf(family, method).frontier;
      return line.flops.map((_, at) => [family, method, ...names.map(name => line[name][at])]);
    });
    return { columns: ["family", "law", ...names], rows };
  },
};

function lawPick() {
  const select = el("select", { id: "pick-law", on: { change: () => go({ law: select.value === "surface" ? "" : select.value }) } },
    [["surface", "surface E + A/N^α + B/D^β"], ["isoflop", "minima of IsoFLOP curves"]].map(([name, word]) => el("option", { value: name, selected: methodNow() === name }, word)));
  return el("label", { class: "pick" }, "Law", select);
}

function noLaws(method) {
  const why = shownFamilies().map(family => [family, lawsNow()?.families?.[family]?.refused?.[method]]).filter(([, sentence]) => sentence);
  return el("div", {}, emptyState("There is no law to draw yet.", lawsNow() ? "" : "It appears as soon as it is fitted."), listOf(why.map(([family, sentence]) => `${family}: ${sentence}`)));
}

const chosenPapers = () => new Set((route.papers || "").split(",").filter(Boolean));
const publishedLines = () => lawsNow()?.published || [];

function publishedPick() {
  const lines = publishedLines();
  if (!lines.length) return null;
  const chosen = chosenPapers();
  const boxes = lines.map(line => {
    const box = el("input", { type: "checkbox", id: `paper-${line.name}`, on: { change: () => {
      box.checked ? chosen.add(line.name) : chosen.delete(line.name);
      go({ papers: [...chosen].join(",") });
    } } });
    box.checked = chosen.has(line.name);
    const counts = [line.params_counted && `N ${line.params_counted}`, line.flops_counted && `C ${line.flops_counted}`, line.corpus].filter(Boolean).join(", ");
    return el("li", {}, el("label", {}, box, ` ${line.name} (${line.family}; ${line.status})`), el("span", { class: "muted" }, ` ${counts}`));
  });
  const list = el("details", { open: chosen.size > 0 }, el("summary", {}, "Published laws to lay over these"),
    el("p", { class: "muted" }, "Grey lines, each counted as its paper counts. Losses compare on equal text and tokenizer alone."), el("ul", { class: "plain" }, boxes));
  return list;
}

function frontierFigure(families, method, width, { print = false } = {}) {
  const columns = width < 700 ? 1 : 2, rows = PANELS.length / columns, each = columns === 1 ? 300 : 330;
  const data = [], layout = { height: rows * each + 60, hovermode: "closest" };
  const papers = publishedLines().filter(line => chosenPapers().has(line.name));
  PANELS.forEach(([panel, title], at) => {
    const axis = axisNames(at);
    const factor = panel === "loss" ? lossFactor() : 1;
    const shown = [];
    for (const family of families) data.push(...frontierTraces(family, method, panel, axis, factor, shown));
    papers.forEach((line, n) => data.push(paperTrace(line, n, panel, axis, factor, shown)));
    placeQuarter(layout, at, columns, rows, shown, title(), panel, width);
  });
  const legend = families.map(family => legendEntry(family, familyStyle(family)));
  papers.forEach((line, n) => legend.push({ x: [null], y: [null], mode: "lines", line: lineOf(LOOK.neutral, 1.8, DASHES[n % DASHES.length]), name: escaped(line.name), showlegend: true }));
  return { title: "Compute-optimal frontier", data, layout, legend: print ? legend : [] };
}

const WIDEST = 30;
function frontierTraces(family, method, panel, axis, factor, shown) {
  const law = lawOf(family, method), line = law.frontier, style = familyStyle(family);
  const traces = [];
  for (const beyond of [false, true]) {
    const at = line.flops.map((_, n) => n).filter(n => line.extrapolated[n] === beyond);
    const take = name => at.map(n => times(line[name][n], name.startsWith(panel) ? factor : 1));
    const x = take("flops"), y = take(panel), low = take(`${panel}_low`), high = take(`${panel}_high`);
    traces.push(bandTrace(x, low, high, seeThrough(style.colour, 0.15), axis));
    traces.push({ ...axis, x, y, mode: "lines", line: lineOf(style.colour, 2.2, beyond ? "dash" : "solid"), hoverinfo: "text", name: escaped(family),
      hovertext: at.map(n => optimumHover(family, line, n, law.level)) });
    shown.push(...y, ...low.filter((v, n) => v > y[n] / WIDEST), ...high.filter((v, n) => v < y[n] * WIDEST));
  }
  const minima = method === "isoflop" ? minimaOf(family).filter(m => m.status === "bracketed") : [];
  traces.push({ ...axis, x: minima.map(m => m.flops), y: minima.map(m => m[panel] * factor), mode: "markers", hoverinfo: "skip",
    marker: { color: style.colour, symbol: style.symbol, size: 8 } });
  return traces;
}

function optimumHover(name, line, at, level) {
  const text = (key, words) => intervalText(line[key][at], line[`${key}_low`][at], line[`${key}_high`][at], words);
  const factor = lossFactor();
  return `<b>${escaped(name)}</b> at ${flopsText(line.flops[at])} FLOPs${line.extrapolated[at] ? ", extrapolated" : ""}<br>`
    + `loss ${lossText(line.loss[at] * factor, times(line.loss_low[at], factor), times(line.loss_high[at], factor))}<br>${text("params", amountText)} parameters<br>`
    + `${text("tokens", amountText)} tokens<br>${text("tokens_per_param", sig)} tokens per parameter`;
}

function paperTrace(line, n, panel, axis, factor, shown) {
  const y = (line.line[panel] || []).map(value => times(value, factor));
  if (panel !== "loss") shown.push(...y.filter(value => !missing(value)));
  return { ...axis, x: line.line.flops, y, mode: "lines", line: lineOf(LOOK.neutral, 1.8, DASHES[n % DASHES.length]), name: escaped(line.name),
    hovertemplate: `${escaped(line.name)}: %{y:.4s}<extra></extra>` };
}

const GAP_PX = 48;
function placeQuarter(layout, at, columns, rows, shown, title, panel, width) {
  const column = at % columns, row = Math.floor(at / columns), name = at ? String(at + 1) : "";
  const gap = GAP_PX / (layout.height - 84);
  const wide = columns === 1 ? 1 : 0.44, tall = (1 - gap * (rows - 1)) / rows;
  const left = column * 0.56, top = 1 - row * (tall + gap);
  const all = lawsNow() ? VIEWS.frontier.families.flatMap(family => { const flops = lawOf(family, methodNow()).frontier.flops; return [flops[0], flops[flops.length - 1]]; }) : [];
  const text = panel === "tokens_per_param" ? plainTick : countText;
  layout[`xaxis${name}`] = { ...logAxis(row === rows - 1 ? flopsTitle() : "", all, computeText, { pad: 0.02, room: (width * wide) / 90 }), domain: [left, left + wide], anchor: `y${name}` };
  layout[`yaxis${name}`] = { ...(panel === "loss" ? linearAxis(title, shown) : logAxis(title, shown, text, { room: 7 })), domain: [Math.max(0, top - tall), top], anchor: `x${name}` };
}

function exponentTable(families, method) {
  const words = { params: "size", tokens: "tokens", tokens_per_param: "tokens per parameter", loss: "loss", reducible_loss: "loss above E" };
  const names = Object.keys(words).filter(name => families.some(family => lawOf(family, method).exponents[name]));
  const columns = [{ title: "family" }, { title: "runs", class: "num" }, ...names.map(name => ({ title: words[name] })), { title: "how the fit ended", class: "wrap" }];
  const rows = families.map(family => {
    const law = lawOf(family, method);
    return [familyCell(family), law.num_runs, ...names.map(name => (law.exponents[name] ? intervalText(...law.exponents[name]) : "")), law.sentence];
  });
  const warnings = families.flatMap(family => lawOf(family, method).warnings.map(sentence => `${family}: ${sentence}`));
  return el("div", {}, el("h3", {}, "Exponents in compute"), tableOf(columns, rows), warnings.length ? [el("h3", {}, "What to mind"), listOf(warnings)] : null);
}
