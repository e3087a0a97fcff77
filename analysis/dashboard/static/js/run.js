// Run: training curve, configuration, result and attempts of one run. Without a key: the list of runs.

VIEWS.run = {
  title: "Run",
  render(root) {
    const at = store.place?.get(route.run);
    this.picture = this.parts = null;
    if (at === undefined) {
      add(root, ...finder(this));
      return [];
    }
    return showRun(this, root, at);
  },
  csv() {
    if (this.parts) return curvesCsv(this.parts);
    return runsCsv(route.run && store.place.has(route.run) ? [store.place.get(route.run)] : matchingRuns());
  },
};

function showRun(view, root, at) {
  const history = el("div"), texts = el("div");
  const before = stories.get(store.runs.key[at]);
  const curveBox = el("div", { style: before?.curve?.step.length ? { minHeight: "500px" } : {} }, before ? null : el("p", { class: "muted" }, "Reading the training curve"));
  add(root, viewHead(labelOf(at), runSentence(at), view),
    noteBox(store.runs.key[at]), curveBox, history,
    el("div", { class: "two" },
      el("section", {}, el("h3", {}, "Configuration"), facts(at, SPEC)),
      el("section", {}, el("h3", {}, "Result"), facts(at, OUTCOME), trackingLink(at))), texts);
  loadStory(at).then(story => {
    fillStory(view, curveBox, history, at, story);
    texts.replaceChildren(...sampleTexts(story));
  });
  return [];
}

// The networks that the run of this row trained side by side: seed and loss of each.
function replicasSentence(at) {
  const { runs } = store, rows = [];
  for (let one = 0; one < store.rows; one++) if (runs.key[one] === runs.key[at]) rows.push(one);
  const losses = rows.filter(finished).map(one => runs.loss[one]), mean = losses.reduce((sum, x) => sum + x, 0) / losses.length;
  const each = rows.map(one => `seed ${runs.seed?.[one] ?? "?"} ${finished(one) ? runs.loss[one].toFixed(4) : statusOf(one)}`).join(", ");
  const all = losses.length > 1 ? `; mean ${mean.toFixed(4)} ± ${spreadOf(losses).toFixed(4)} (one network's spread)` : "";
  return `${rows.length} replicas: ${each}${all}. Their curve is the mean; times below are one's share.`;
}

function runSentence(at) {
  const { runs } = store;
  if (runs.replicas?.[at] > 1) return replicasSentence(at);
  if (finished(at)) {
    const bits = runs.bits_per_byte && !missing(runs.bits_per_byte[at]) ? `, ${runs.bits_per_byte[at].toFixed(4)} bits per byte` : "";
    return `Finished: ${runs.loss[at].toFixed(4)} nats per token${bits}.`;
  }
  const why = (runs.sentence && runs.sentence[at]) || (runs.excluded && runs.excluded[at]) || "";
  return `Status: ${statusOf(at)}${why ? `. ${why}` : ""}`;
}

function fillStory(view, box, history, at, story) {
  if (!box.isConnected) return;
  box.replaceChildren();
  box.style.minHeight = "";  // it was held while the page was drawn again
  const part = partOf(at, story);
  if (!part) box.append(el("p", { class: "muted" }, story.problem || "There is no training curve of this run."));
  else {
    view.parts = [part];
    view.picture = curveFigure(view.parts, `Training curve of ${labelOf(at)}`);
    const others = el("a", { href: address({ run: "", runs: store.runs.key[at] }) }, "Compare with curves of other runs");
    add(box, el("div", { class: "head" }, curveControls(view.parts), others), view.picture.box, thinnedNote(part.curve.step.length, part.recorded));
    view.picture.show();
    figures = [view.picture];
    drawSoon();
  }
  if (story.story && story.story.length) history.replaceChildren(el("h3", {}, "Attempts"), attempts(story.story));
}

function sampleTexts(story) {
  if (!story.texts?.length) return [];
  return [el("h3", {}, "Samples of text"), ...story.texts.map(text => el("pre", { class: "sample" }, text))];
}

function thinnedNote(points, recorded) {
  const exact = store.carried ? " This file keeps the losses of curves to 0.025%." : "";
  const means = points < recorded ? `${points} of ${counted(recorded, "point")}: each is the mean over a stretch of steps.` : "";
  return means || exact ? el("p", { class: "muted" }, means + exact) : null;
}

const SPEC = [["sweep", "sweep"], ["key", "key"], ["objective", "objective"], ["size", "size"], ["params_total", "parameters, all", countText],
  ["params_non_embedding", "without embeddings", countText], ["params_body", "of the blocks", countText], ["params", "parameters", countText],
  ["tokens", "tokens", countText], ["unique_tokens", "unique tokens", countText], ["budget", "budget (FLOPs)", flopsText],
  ["flops_exact", "FLOPs, exact", flopsText], ["flops_6nd", "FLOPs, 6 N D", flopsText], ["flops_sahoo2026", "FLOPs, Sahoo et al. 2026", flopsText],
  ["context_length", "context length"], ["batch_size", "batch size"], ["steps", "steps"], ["learning_rate", "learning rate", x => String(Number(x.toPrecision(4)))], ["seed", "seed"], ["replicas", "replicas"],
  ["vocab_size", "vocabulary"], ["corpus", "text"], ["tokenizer", "tokenizer"], ["data_fingerprint", "data fingerprint"], ["notes", "notes"], ["tags", "tags"]];
const OUTCOME = [["status", "status"], ["sentence", "details"], ["excluded", "left out of fits"], ["loss", "held-out loss (nats per token)", x => x.toFixed(5)],
  ["loss_se", "its standard error", x => sig(x, 3)], ["bits_per_byte", "bits per byte", x => x.toFixed(5)], ["bound", "kind of bound"], ["wall_s", "time", durationText],
  ["evaluation_s", "of it evaluation", durationText],
  ["tokens_per_s", "speed (tokens per s)", countText], ["host", "host"], ["device", "device"], ["started", "started", timeText], ["ended", "ended", timeText],
  ["code_version", "version of the code"], ["mlflow_run_id", "MLflow run id"]];

function facts(at, names) {
  const rows = names.flatMap(([name, word, text]) => {
    const value = store.runs[name]?.[at];
    return missing(value) || value === "" ? [] : [el("dt", {}, word), el("dd", {}, text && typeof value === "number" ? text(value) : String(value))];
  });
  return el("dl", { class: "facts" }, rows);
}

function trackingLink(at) {
  const id = store.runs.mlflow_run_id?.[at];
  const server = store.facts.tracking, experiment = server?.experiments[store.runs.sweep?.[at]];
  if (!id) return null;
  if (experiment) return el("p", {}, el("a", { href: `${server.address}/#/experiments/${encodeURIComponent(experiment)}/runs/${encodeURIComponent(id)}`, rel: "noreferrer", target: "_blank" }, "Open in MLflow"));
  return copyButton(() => ({ columns: [id], rows: [] }), "Copy the MLflow run id");
}

function attempts(story) {
  const columns = [{ title: "attempt", class: "num" }, { title: "state" }, { title: "started" }, { title: "took", class: "num" }, { title: "host" }, { title: "outcome", class: "wrap" }];
  const rows = story.map(one => [one.attempt, one.state, timeText(one.started), one.ended ? durationText(one.ended - one.started) : "", one.host || "", one.sentence || ""]);
  return tableOf(columns, rows);
}
