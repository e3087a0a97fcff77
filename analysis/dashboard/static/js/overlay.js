// Curves in one figure: those of one run, or of several runs chosen in the list, with smoothing.

const MOST_CURVES = LOOK.ramps.length - 1;
const CURVE_AXES = [["flops", "compute"], ["tokens", "tokens"], ["step", "steps"]];
const SMOOTHING = [["", "none"], ["0.05", "5% of the steps so far"], ["0.15", "15% of the steps so far"], ["0.4", "40% of the steps so far"]];
const COLOURINGS = { family: "family", nominal: "budget", size: "size", key: "run" };

// Horizontal axes that all of these curves have, and the one to show.
const sharedAxes = parts => CURVE_AXES.filter(([name]) => parts.every(({ curve }) => curve[name]));
const axisOf = parts => (sharedAxes(parts).find(([name]) => name === route.x) || sharedAxes(parts)[0])[0];

function choice(id, word, options, now, name, usual = "") {
  const select = el("select", { id, on: { change: () => go({ [name]: select.value === usual ? "" : select.value }) } },
    options.map(([value, text]) => el("option", { value, selected: value === now }, text)));
  return el("label", { class: "pick" }, word, select);
}

function curveControls(parts, colouring) {
  const axes = sharedAxes(parts);
  const colours = Object.entries(COLOURINGS).filter(([name]) => store.runs[name]);
  return el("div", { class: "group picks", role: "group", "aria-label": "How to draw the curves" },
    choice("pick-x", "against", axes, axisOf(parts), "x", axes[0][0]),
    choice("pick-smooth", "smoothed over", SMOOTHING, smoothing(), "smooth"),
    colouring ? choice("pick-by", "colours by", colours, colouring, "by") : null);
}

const smoothing = () => (SMOOTHING.some(([width]) => width === route.smooth) ? route.smooth : "");

// The mean around each step, weighted by distance on a logarithmic scale: as wide as a share of the steps so far.
function smoothed(steps, losses, width) {
  const places = steps.map(Math.log), reach = 3 * width;
  let first = 0;
  return places.map((place, at) => {
    if (missing(losses[at])) return null;
    while (places[first] < place - reach) first += 1;
    let sum = 0, weights = 0;
    for (let near = first; near < places.length && places[near] <= place + reach; near++) {
      if (missing(losses[near]) || !Number.isFinite(losses[near])) continue;
      const weight = Math.exp(-(((places[near] - place) / width) ** 2) / 2);
      sum += weight * losses[near];
      weights += weight;
    }
    return weights ? sum / weights : losses[at];
  });
}

// Without a choice, what tells these runs apart.
function colouringOf(places) {
  if (COLOURINGS[route.by] && store.runs[route.by]) return route.by;
  return ["family", "nominal", "size"].find(name => new Set(places.map(at => store.runs[name]?.[at])).size > 1) || "key";
}

// Value of a run -> its colour, dash and name in the legend.
function colouredBy(name, places) {
  const values = [...new Set(places.map(at => store.runs[name]?.[at]))], params = paramsColumn();
  const largest = value => Math.max(...places.filter(at => store.runs.size?.[at] === value).map(at => params[at]));
  if (name === "size") values.sort((a, b) => largest(a) - largest(b));
  return new Map(values.map((value, at) => {
    const place = places.find(one => store.runs[name]?.[one] === value);
    if (name === "family") return [value, { colour: familyStyle(value).colour, text: value || "all runs" }];
    if (name === "nominal") return [value, { colour: store.budgetColour.get(value) || LOOK.neutral, text: missing(value) ? "no budget" : `${computeText(value)} FLOPs` }];
    if (name === "size") return [value, { colour: LOOK.ramps[Math.min(values.length, MOST_CURVES)][at], text: value ?? "no size" }];
    return [value, { colour: LOOK.distinct[at % LOOK.distinct.length], dash: ["solid", "dash", "dot"][Math.floor(at / LOOK.distinct.length) % 3], text: `${labelOf(place)} (${shortKey(value)})` }];
  }));
}

// parts: {at, curve, heldOut} of each run. The figure comes from Python, with one trace of each kind to repeat for every run.
function curveFigure(parts, label, colouring = "") {
  const name = axisOf(parts), several = Boolean(colouring), isHeldOut = parts.some(({ heldOut }) => heldOut);
  const content = structuredClone(LOOK[`${several ? "curves" : "curve"}${isHeldOut ? "_held_out" : ""}`]), [line, measured, final] = content.data;
  const styles = colouredBy(colouring || "family", parts.map(({ at }) => at)), listed = new Set(), width = Number(smoothing());
  content.data = parts.flatMap(({ at, curve, heldOut }) => {
    const value = store.runs[colouring || "family"]?.[at], { colour, dash, text } = styles.get(value), key = store.runs.key[at];
    const where = `<br>%{x:.4s} ${name === "flops" ? "FLOPs" : name}<extra></extra>`, who = several ? `<b>${escaped(labelOf(at))}</b> ${escaped(shortKey(key))}<br>` : "";
    const filled = (trace, x, y, hover) => ({ ...trace, x, y: y.map(loss => (missing(loss) ? null : number(loss))), hovertemplate: who + hover + where, name: escaped(text),
      legendgroup: String(value), showlegend: false, customdata: several ? x.map(() => key) : undefined,
      line: { ...trace.line, color: colour, dash }, marker: { ...trace.marker, color: colour } });
    const own = [filled(line, curve[name], width ? smoothed(curve.step, curve.loss, width) : curve.loss, `training objective %{y:.4f}${width ? ", smoothed" : ""}`)];
    own[0].showlegend = several && !listed.has(value);
    listed.add(value);
    if (width) own.push({ ...filled(line, curve[name], curve.loss, ""), opacity: 0.3, hoverinfo: "skip", hovertemplate: undefined });
    if (!heldOut) return own;
    const ended = [finished(at) ? store.runs.loss[at] : null];
    own.push(filled(measured, heldOut[name], heldOut.held_out_loss, "held-out loss %{y:.4f}%{text}, on a small text"),
      filled(final, heldOut[name].slice(-1), ended, "held-out loss %{y:.4f}, final"));
    own.at(-2).text = heldOut.held_out_loss_se.map(se => (missing(se) ? "" : ` ± ${sig(se, 2)}`));
    return own;
  });
  const spent = parts.flatMap(({ curve }) => [curve[name].find(x => !missing(x)), curve[name].at(-1)]);
  const { tickvals, ticktext } = LOOK.ticks[name], [low, high] = [Math.min(...spent), Math.max(...spent)];
  const inRange = ticks => ticks.filter((_, at) => tickvals[at] >= low && tickvals[at] <= high);
  Object.assign(content.layout.xaxis, { title: { text: LOOK.titles[name] }, tickvals: inRange(tickvals), ticktext: inRange(ticktext) });
  return new Figure(label, content);
}

// What the store holds of a run, with what was spent up to every point; null without a curve.
function partOf(at, story) {
  if (!story.curve?.step.length) return null;
  const { columns, recorded } = withSpending(story.curve, at);
  const { loss, loss_se, ...spent } = story.held_out?.step.length ? withSpending(story.held_out, at).columns : {};
  return { at, recorded, curve: columns, heldOut: loss ? { ...spent, held_out_loss: loss, held_out_loss_se: loss_se || loss.map(() => null) } : null };
}

function curvesCsv(parts) {
  const columns = ["run", ...new Set(parts.flatMap(({ curve, heldOut }) => [...Object.keys(curve), ...Object.keys(heldOut || {})]))];
  return { columns, rows: parts.flatMap(({ at, curve, heldOut }) => [curve, heldOut].filter(Boolean).flatMap(part =>
    part.step.map((_, row) => columns.map(name => (name === "run" ? store.runs.key[at] : part[name]?.[row]))))) };
}

// -- several runs

const chosenRuns = () => (route.runs || "").split(",").filter(key => store.place.has(key)).map(key => store.place.get(key));

function chooseRuns(places) {
  route.runs = places.slice(0, MOST_CURVES).map(at => store.runs.key[at]).join(",");
  history.replaceState(null, "", address());
}

// Fills the box with the curves of the chosen runs, and the view with what there is to save.
async function showOverlay(view, box) {
  const places = chosenRuns(), turn = (view.turn = (view.turn || 0) + 1);
  if (!places.length) {
    view.parts = null;
    setFigures(view, null);
    box.replaceChildren();
    return;
  }
  if (places.some(at => !stories.has(store.runs.key[at])) && !store.carried) add(box, el("p", { class: "muted", role: "status" }, `Reading ${counted(places.length, "curve")}`));
  const answers = await Promise.all(places.map(loadStory));
  if (turn !== view.turn || !box.isConnected) return;
  const parts = places.map((at, number) => partOf(at, answers[number])).filter(Boolean), without = places.filter((_, number) => !partOf(places[number], answers[number]));
  view.parts = parts.length ? parts : null;
  const lacking = without.length ? el("p", { class: "muted" }, `${without.map(labelOf).join(", ")}: ${answers.find(one => one.problem)?.problem || "no training curve."}`) : null;
  if (!parts.length) {
    setFigures(view, null);
    box.replaceChildren(lacking);
    return;
  }
  const colouring = colouringOf(places), figure = curveFigure(parts, `Training curves of ${counted(parts.length, "run")}`, colouring);
  box.replaceChildren(...[el("h3", {}, `Curves of ${counted(parts.length, "run")}`), curveControls(parts, colouring), figure.box, lacking].filter(Boolean));
  setFigures(view, figure);
}

function setFigures(view, figure) {
  for (const before of figures) before.gone();
  view.picture = figure;
  figures = figure ? [figure] : [];
  figure?.show();
  if (figure) drawSoon();
}
