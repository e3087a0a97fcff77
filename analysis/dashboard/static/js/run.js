// Run: training curve, configuration, result and attempts of one run. Without a key: find one.

VIEWS.run = {
  title: "Run",
  render(root) {
    const at = store.place?.get(route.run);
    this.picture = null;
    this.curve = this.heldOut = null;
    if (at === undefined) {
      add(root, ...finder(this));
      return [];
    }
    return showRun(this, root, at);
  },
  csv() {
    if (!this.curve) return runsCsv(route.run && store.place.has(route.run) ? [store.place.get(route.run)] : matchingRuns());
    const parts = [this.curve, this.heldOut].filter(Boolean), columns = [...new Set(parts.flatMap(Object.keys))];
    return { columns, rows: parts.flatMap(part => part.step.map((_, row) => columns.map(name => part[name]?.[row]))) };
  },
};

function matchingRuns() {
  const words = (route.find || "").toLowerCase().split(/\s+/).filter(Boolean);
  const { key, size, host } = store.runs;
  return shownRuns().filter(at => {
    const text = `${key[at]} ${familyOf(at)} ${size ? size[at] : ""} ${statusOf(at)} ${host ? host[at] : ""} ${labelOf(at)}`.toLowerCase();
    return words.every(word => text.includes(word));
  });
}

function finder(view) {
  const box = el("div");
  const fill = () => {
    const places = matchingRuns();
    box.replaceChildren(places.length ? runsTable(places, counted(places.length, "run")) : emptyState("No run matches.", "Change the words or the filters above."));
  };
  const input = el("input", { type: "text", value: route.find, "aria-label": "Find runs", placeholder: "key, size, state, host ...", class: "find",
    on: { input: () => { route.find = input.value; history.replaceState(null, "", address()); fill(); } } });
  fill();
  return [viewHead("Runs", route.run ? `There is no run ${route.run} among these.` : "Choose a run, or click a point in any figure.", view), input, box];
}

function showRun(view, root, at) {
  const history = el("div"), texts = el("div");
  const before = stories.get(store.runs.key[at]);
  const curveBox = el("div", { style: before?.curve?.step.length ? { minHeight: "500px" } : {} }, before ? null : el("p", { class: "muted" }, "Reading the training curve"));
  add(root, viewHead(labelOf(at), runSentence(at), view),
    curveBox, history,
    el("div", { class: "two" },
      el("section", {}, el("h3", {}, "Configuration"), facts(at, SPEC)),
      el("section", {}, el("h3", {}, "Result"), facts(at, OUTCOME), trackingLink(at))),
    el("h3", {}, "Samples of text"), texts);
  loadStory(at).then(story => {
    fillStory(view, curveBox, history, at, story);
    texts.replaceChildren(...sampleTexts(story));
  });
  return [];
}

function runSentence(at) {
  const { runs } = store;
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
  if (!story.curve?.step.length) {
    box.append(emptyState(story.problem || "There is no training curve of this run."));
  } else {
    const { columns, recorded } = withSpending(story.curve, at);
    view.curve = columns;
    const { loss, loss_se, ...spent } = story.held_out?.step.length ? withSpending(story.held_out, at).columns : {};
    view.heldOut = loss ? { ...spent, held_out_loss: loss, held_out_loss_se: loss_se || loss.map(() => null) } : null;
    view.picture = curveFigure(columns, at, view.heldOut);
    add(box, curveControls(columns), view.picture.box, thinnedNote(columns.step.length, recorded));
    view.picture.show();
    figures = [view.picture];
    drawSoon();
  }
  if (story.story && story.story.length) history.replaceChildren(el("h3", {}, "Attempts"), attempts(story.story));
}

function sampleTexts(story) {
  if (story.texts?.length) return story.texts.map(text => el("pre", { class: "sample" }, text));
  return [emptyState(store.carried ? "This file carries no samples." : "There are no samples of this run here; the sweep's own ledger has them once the run has finished.")];
}

function thinnedNote(points, recorded) {
  const exact = store.carried ? " This file keeps the losses of curves to 0.025%." : "";
  const means = points < recorded ? `${points} of ${counted(recorded, "point")}: each is the mean over a stretch of steps.` : "";
  return means || exact ? el("p", { class: "muted" }, means + exact) : null;
}

const CURVE_AXES = [["flops", "compute"], ["tokens", "tokens"], ["step", "steps"]];
const curveAxis = curve => (curve[route.x] ? route.x : CURVE_AXES.find(([name]) => curve[name])[0]);

function curveControls(curve) {
  const pick = el("select", { "aria-label": "Horizontal axis", on: { change: () => go({ x: pick.value === "flops" ? "" : pick.value }) } },
    CURVE_AXES.filter(([name]) => curve[name]).map(([name, word]) => el("option", { value: name, selected: curveAxis(curve) === name }, word)));
  return el("label", { class: "pick" }, "against", pick);
}

// The figure of a run's curves, filled with its points: the training objective and, where they were measured, held-out losses.
function curveFigure(curve, at, heldOut) {
  const name = curveAxis(curve), content = structuredClone(heldOut ? LOOK.curve_held_out : LOOK.curve), [line, measured, final] = content.data;
  const { colour } = familyStyle(familyOf(at)), where = `<br>%{x:.4s} ${name === "flops" ? "FLOPs" : name}<extra></extra>`;
  const fill = (trace, x, y, hover) => Object.assign(trace, { x, y: y.map(loss => (missing(loss) ? null : number(loss))), hovertemplate: hover + where,
    line: { ...trace.line, color: colour }, marker: { ...trace.marker, color: colour } });
  fill(line, curve[name], curve.loss, "training objective %{y:.4f}");
  if (heldOut) {
    fill(measured, heldOut[name], heldOut.held_out_loss, "held-out loss %{y:.4f}%{text}, on a small text");
    measured.text = heldOut.held_out_loss_se.map(se => (missing(se) ? "" : ` ± ${sig(se, 2)}`));
    fill(final, heldOut[name].slice(-1), [finished(at) ? store.runs.loss[at] : null], "held-out loss %{y:.4f}, final");
  }
  const { tickvals, ticktext } = LOOK.ticks[name], spent = line.x.filter(x => !missing(x)), [low, high] = [Math.min(...spent), Math.max(...spent)];
  const inRange = ticks => ticks.filter((_, at) => tickvals[at] >= low && tickvals[at] <= high);
  Object.assign(content.layout.xaxis, { title: { text: LOOK.titles[name] }, tickvals: inRange(tickvals), ticktext: inRange(ticktext) });
  return new Figure(`Training curve of ${labelOf(at)}`, content);
}

const SPEC = [["sweep", "sweep"], ["key", "key"], ["objective", "objective"], ["size", "size"], ["params_total", "parameters, all", countText],
  ["params_non_embedding", "without embeddings", countText], ["params_body", "of the blocks", countText], ["params", "parameters", countText],
  ["tokens", "tokens", countText], ["unique_tokens", "unique tokens", countText], ["budget", "budget (FLOPs)", flopsText],
  ["flops_exact", "FLOPs, exact", flopsText], ["flops_6nd", "FLOPs, 6 N D", flopsText], ["flops_sahoo2026", "FLOPs, Sahoo et al. 2026", flopsText],
  ["context_length", "context length"], ["batch_size", "batch size"], ["steps", "steps"], ["learning_rate", "learning rate", x => String(Number(x.toPrecision(4)))], ["seed", "seed"],
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
