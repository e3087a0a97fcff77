// The list of runs: found by words and comparisons, sorted by any column, with the columns one wants; seeds as one row.

const LIST_COLUMNS = ["key", "loss", "family", "size", "nominal", "params", "tokens", "status", "wall_s"], PHONE_COLUMNS = ["key", "loss", "family", "nominal", "size"];
const shortKey = key => (/^[0-9a-f]{16}$/.test(key) ? key.slice(0, 8) : key);

// name -> {title, values, cell(value, place)} of every column there is.
function listColumns() {
  const { runs } = store, words = new Map([...SPEC, ...OUTCOME].map(([name, word, text]) => [name, { title: word, text }]));
  const own = {
    key: { title: "run", values: runs.key, cell: key => { const link = runLink(key, shortKey(key)); link.title = key; return link; } },
    loss: { title: phone.matches ? "loss" : `loss (${route.loss})`, values: valuesNamed("loss"), text: x => x.toFixed(4) },
    family: { title: "family", cell: familyCell }, nominal: { title: "budget", cell: budgetCell },
    params: { title: "parameters", values: paramsColumn(), text: countText }, flops: { title: "FLOPs", values: flopsColumn(), text: flopsText },
    wall_s: { title: "time", text: durationText }, note: { title: "note", values: valuesNamed("note") }, bits_per_byte: { title: "bits per byte", text: x => x.toFixed(4) },
  };
  const names = [...new Set([...LIST_COLUMNS, ...Object.keys(runs), ...(Object.keys(store.notes.runs).length ? ["note"] : [])])].filter(name => (runs[name] || name === "note") && name !== "budget");
  return new Map(names.map(name => {
    const column = { ...words.get(name), values: runs[name] || [], title: words.get(name)?.title || name, ...own[name] };
    const isNumber = !column.cell && column.values.some(value => typeof value === "number");
    const text = value => (missing(value) ? "" : typeof value === "number" ? (column.text || (x => String(x)))(value) : String(value));
    return [name, { name, isNumber, ...column, cell: column.cell ? value => (missing(value) ? "" : column.cell(value)) : text }];
  }));
}

function shownColumns(columns) {
  const chosen = (route.cols || "").split(",").filter(name => columns.has(name));
  return (chosen.length ? chosen : (phone.matches ? PHONE_COLUMNS : LIST_COLUMNS).filter(name => columns.has(name))).map(name => columns.get(name));
}

function matchingRuns() {
  const { tests } = parseFilter(route.find || "");
  return shownRuns().filter(at => tests.every(test => test(at)));
}

// -- rows: each one run, or the runs that differ by their seed alone

const SEED_ONLY = new Set(["key", "seed", "replica", "replicas", "loss", "loss_se", "bits_per_byte", "wall_s", "evaluation_s", "evaluation_flops", "tokens_per_s", "micro_batch", "device", "host",
  "code_version", "mlflow_run_id", "started", "ended", "status", "sentence", "excluded", "attempt"]);

function listRows(places) {
  if (route.group !== "seeds" || !store.severalSeeds) return places.map(at => [at]);
  const same = Object.keys(store.runs).filter(name => !SEED_ONLY.has(name)), groups = new Map();
  for (const at of places) {
    const id = JSON.stringify(same.map(name => store.runs[name][at]));
    groups.set(id, [...(groups.get(id) || []), at]);
  }
  return [...groups.values()];
}

// One value of a row: of several runs the mean of those that finished, or what they have in common.
function rowValue({ values, name, isNumber }, row) {
  if (row.length === 1) return values[row[0]];
  const own = row.filter(at => name !== "loss" || finished(at)).map(at => values[at]).filter(value => !missing(value));
  if (isNumber) return own.length ? own.reduce((sum, x) => sum + x, 0) / own.length : null;
  const different = new Set(own);
  return different.size === 1 ? own[0] : different.size ? `${different.size} different` : null;
}

function spreadOf(values) {
  const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
  return Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (values.length - 1));
}

function rowCell(column, row) {
  const value = rowValue(column, row);
  if (row.length === 1) return column.cell(value);
  if (column.name === "key") {
    return el("span", {}, "seed", row.flatMap(at => {
      const link = runLink(store.runs.key[at], store.runs.seed[at] ?? "?");
      link.setAttribute("aria-label", `seed ${link.textContent}, run ${shortKey(store.runs.key[at])}`);
      return [" ", link];
    }));
  }
  if (typeof value === "string" && value.endsWith(" different")) return value;
  if (column.name !== "loss" || value === null) return column.cell(value);
  const losses = row.filter(finished).map(at => column.values[at]);
  return losses.length > 1 ? `${column.cell(value)} ± ${spreadOf(losses).toFixed(4)}` : column.cell(value);
}

const WORD_ORDER = new Intl.Collator("en", { numeric: true });
const sortName = () => (route.sort || "").replace(/^-/, "");

function sortedRows(rows, column) {
  if (!column) return rows;
  const sign = route.sort.startsWith("-") ? -1 : 1, values = new Map(rows.map(row => [row, rowValue(column, row)]));
  const isLess = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : WORD_ORDER.compare(a, b));
  return [...rows].sort((one, other) => {
    const [a, b] = [values.get(one), values.get(other)];
    return missing(a) || missing(b) ? missing(a) - missing(b) : sign * isLess(a, b);
  });
}

// -- the list

// What changes the list alone redraws it alone: the figure above it and the focus stay.
function finder(view) {
  const box = el("div"), overlay = el("div"), problem = el("p", { class: "bad", role: "status" });
  const set = changes => {
    Object.assign(route, changes);
    history.replaceState(null, "", address());
    const focused = document.activeElement?.id;
    fill();
    if (focused) document.getElementById(focused)?.focus();
  };
  const fill = () => {
    const places = matchingRuns(), columns = listColumns();
    problem.textContent = parseFilter(route.find || "").problem;
    box.replaceChildren(places.length ? listTable(places, columns, set, choose) : el("p", { class: "muted" }, "No run matches; change the words or the filters above."));
  };
  const choose = places => {
    chooseRuns(places);
    set({});
    showOverlay(view, overlay);
  };
  const input = el("input", { type: "text", id: "find", value: route.find, "aria-label": "Find runs", placeholder: "masked 1e20 loss<2.5", class: "find", on: { input: () => set({ find: input.value }) } });
  fill();
  const help = "Words and comparisons, all of which must hold: masked 1e20, loss<2.5, params>=100M, status=failed, host~node.";
  setTimeout(() => showOverlay(view, overlay));
  return [viewHead("Runs", route.run ? `There is no run ${route.run} among these.` : `Choose a run, or click a point in any figure.${store.facts.has_curves ? " Boxes put curves into one figure." : ""}`, view),
    overlay, el("div", { class: "group picks" }, input, columnMenu(set), seedBox(set)), el("p", { class: "muted small wide" }, help), problem, box];
}

function columnMenu(set) {
  const columns = listColumns();
  const boxes = [...columns.values()].map(({ name, title }) => {
    const box = el("input", { type: "checkbox", on: { change: () => {
      const names = shownColumns(columns).map(column => column.name).filter(one => one !== name);
      set({ cols: [...columns.keys()].filter(one => names.includes(one) || (one === name && box.checked)).join(",") });
    } } });
    box.checked = shownColumns(columns).some(column => column.name === name);
    return el("label", {}, box, ` ${title}`);
  });
  const usual = el("button", { type: "button", on: { click: () => { set({ cols: "" }); menu.open = false; render(); } } }, "Usual columns");
  const menu = el("details", { class: "menu columns" }, el("summary", { role: "button" }, "Columns"), el("div", {}, boxes, usual));
  return menu;
}

function seedBox(set) {
  if (!store.severalSeeds) return null;
  const box = el("input", { type: "checkbox", id: "group-seeds", on: { change: () => set({ group: box.checked ? "seeds" : "" }) } });
  box.checked = route.group === "seeds";
  return el("label", { class: "pick" }, box, "Seeds as one row");
}

function listTable(places, columns, set, choose) {
  const visible = shownColumns(columns), chosen = chosenRuns();
  const rows = sortedRows(listRows(places), columns.get(sortName()));
  const heads = visible.map(({ name, title, isNumber }) => {
    const order = sortName() !== name ? "" : route.sort.startsWith("-") ? "descending" : "ascending";
    const next = { "": name, ascending: `-${name}`, descending: "" }[order];
    const button = el("button", { class: "sort", type: "button", id: `sort-${name}`, on: { click: () => set({ sort: next }) } }, title, { "": "", ascending: " ▲", descending: " ▼" }[order]);
    return { title: button, class: isNumber ? "num" : "", sorted: order || null };
  });
  if (store.facts.has_curves) heads.unshift({ title: "" });
  const isStarred = canWrite() || Object.values(store.notes.runs).some(({ star }) => star);
  if (isStarred && !phone.matches) heads.unshift({ title: "" });
  const isMany = chosen.length >= MOST_CURVES;
  const pickOf = line => {
    const row = [...new Set(line.map(at => store.place.get(store.runs.key[at])))];  // replicas share a curve
    const isOn = row.every(at => chosen.includes(at)), names = row.map(at => `${labelOf(at)}, run ${shortKey(store.runs.key[at])}`).join("; ");
    const box = el("input", { type: "checkbox", id: `curve-${store.runs.key[row[0]]}${store.runs.replica?.[line[0]] ? `-${store.runs.replica[line[0]]}` : ""}`, "aria-label": `Curve of ${names}`, disabled: isMany && !isOn,
      on: { change: () => choose(box.checked ? [...chosen, ...row.filter(at => !chosen.includes(at))] : chosen.filter(at => !row.includes(at))) } });
    box.checked = isOn;
    return box;
  };
  const cells = rows.map(row => () => [...(isStarred && !phone.matches ? [row.length === 1 ? starOf(store.runs.key[row[0]]) : ""] : []), ...(store.facts.has_curves ? [pickOf(row)] : []), ...visible.map(column => rowCell(column, row))]);
  const runs = counted(places.length, "run"), caption = rows.length === places.length ? runs : `${runs} in ${counted(rows.length, "row")}`;
  return el("div", {}, chosen.length ? el("p", { class: "muted" }, `${counted(chosen.length, "curve")} chosen${isMany ? ", the most one figure shows" : ""} `,
    el("button", { type: "button", id: "no-curves", on: { click: () => choose([]) } }, "None")) : null, tableOf(heads, cells, { caption, most: 100 }));
}
