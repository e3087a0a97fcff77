// Frontier: the best run at every budget, for all families, with bands; published laws to lay over them.

const FRONTIER_COLUMNS = ["loss", "params", "tokens", "tokens_per_param"].flatMap(name => [name, `${name}_low`, `${name}_high`]);

VIEWS.frontier = {
  title: "Frontier",
  render(root) {
    const method = methodNow();
    const families = shownFamilies().filter(family => lawOf(family, method));
    this.families = families;
    add(root, viewHead("Compute-optimal frontier", "Loss, size and tokens of the best run at every budget.", this), lawPick(), note(lawsNote()));
    const papers = (lawsNow()?.published || []).filter(line => chosenPapers().has(line.name));
    this.picture = families.length ? figureOf(`frontier/${method}`, `Compute-optimal frontiers of ${families.join(", ")}`, { more: papers.flatMap(line => line.traces) }) : null;
    if (!this.picture) {
      add(root, noLaws(method));
      return [];
    }
    add(root, this.picture.box, publishedPick(), exponentTable(families, method));
    return [this.picture];
  },
  csv() {
    const method = methodNow(), names = ["flops", ...FRONTIER_COLUMNS, "extrapolated"];
    const rows = this.families.flatMap(family => {
      const line = lawOf(family, method).frontier;
      return line.flops.map((_, at) => [family, method, ...names.map(name => line[name][at])]);
    });
    return { columns: ["family", "law", ...names], rows };
  },
};

function lawPick() {
  const names = Object.keys(lawsNow()?.methods || {}).filter(name => store.families.some(family => lawOf(family, name)));
  if (names.length < 2) return null;
  const select = el("select", { id: "pick-law", on: { change: () => go({ law: select.value === mainMethod() ? "" : select.value }) } },
    names.map(name => el("option", { value: name, selected: methodNow() === name }, lawsNow().methods[name])));
  return el("label", { class: "pick" }, "Law", select);
}

function noLaws(method) {
  const reasons = shownFamilies().map(family => [family, lawsNow()?.families?.[family]?.refused?.[method]]).filter(([, sentence]) => sentence);
  return el("div", {}, emptyState("There is no law to draw yet.", lawsNow() ? "" : "It appears as soon as it is fitted."), listOf(reasons.map(([family, sentence]) => `${family}: ${sentence}`)));
}

const chosenPapers = () => new Set((route.papers || "").split(",").filter(Boolean));

function publishedPick() {
  const lines = lawsNow()?.published || [];
  if (!lines.length) return null;
  const papers = chosenPapers();
  const boxes = lines.map(line => {
    const box = el("input", { type: "checkbox", id: `paper-${line.name}`, on: { change: () => {
      box.checked ? papers.add(line.name) : papers.delete(line.name);
      go({ papers: [...papers].join(",") });
    } } });
    box.checked = papers.has(line.name);
    const counts = [line.params_counted && `N ${line.params_counted}`, line.flops_counted && `C ${line.flops_counted}`, line.corpus].filter(Boolean).join(", ");
    return el("li", {}, el("label", {}, box, ` ${line.name} (${line.family}; ${line.status})`), el("span", { class: "muted" }, ` ${counts}`));
  });
  return el("details", { open: papers.size > 0 }, el("summary", {}, "Compare with published laws"),
    el("p", { class: "muted" }, "Grey lines, each counted as its paper counts. Losses compare only on the same text and tokenizer."), el("ul", { class: "plain" }, boxes));
}

function exponentTable(families, method) {
  const words = { params: "size", tokens: "tokens", tokens_per_param: "tokens per parameter", loss: "loss", reducible_loss: "loss above E" };
  const names = Object.keys(words).filter(name => families.some(family => lawOf(family, method).exponents[name]));
  const columns = [{ title: "family" }, { title: "runs", class: "num" }, ...names.map(name => ({ title: words[name] })), { title: "fit" }];
  const rows = families.map(family => {
    const law = lawOf(family, method);
    return [familyCell(family), law.num_runs, ...names.map(name => (law.exponents[name] ? intervalText(...law.exponents[name]) : "")), el("span", { title: law.sentence }, law.status)];
  });
  const warnings = families.flatMap(family => lawOf(family, method).warnings.map(sentence => `${family}: ${sentence}`));
  return el("div", {}, el("h3", {}, "Exponents in compute"), tableOf(columns, rows), warnings.length ? [el("h3", {}, "Caveats"), listOf(warnings)] : null);
}
