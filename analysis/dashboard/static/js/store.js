// The runs as columns, the laws as they come, and who wants to know of changes.

const store = { runs: {}, rows: 0, facts: {}, state: {}, laws: {}, loaded: false, problem: "", carried: null, known: {} };

function takeRuns(told) {
  store.rows = told.rows;
  store.facts = told;
  store.runs = {};
  for (const [name, column] of Object.entries(told.columns)) store.runs[name] = expand(column, told.rows);
  store.place = new Map((store.runs.key || []).map((key, at) => [key, at]));
  store.families = familyOrder(new Set(store.runs.family || []));
  store.budgets = [...new Set(store.runs.nominal || [])].filter(b => !missing(b)).sort((a, b) => a - b);
  const colours = rampColours(store.budgets.length);
  store.budgetColour = new Map(store.budgets.map((budget, at) => [budget, colours[at]]));
  store.severalSeeds = new Set(store.runs.seed || []).size > 1;
  store.loaded = true;
}

function expand(column, rows) {
  if (column.kind === "one") return new Array(rows).fill(number(column.value));
  if (column.kind === "words") return column.at.map(at => (at < 0 ? null : column.words[at]));
  if (column.kind === "number") return column.values.map(number);
  return column.values;
}
const number = x => (x === "inf" ? Infinity : x === "-inf" ? -Infinity : x);

const statusOf = at => (store.runs.status ? store.runs.status[at] : "finished");
const familyOf = at => (store.runs.family ? store.runs.family[at] : "");
const finished = at => statusOf(at) === "finished" && Number.isFinite(store.runs.loss[at]) && store.runs.loss[at] !== null
  && !(store.runs.excluded && store.runs.excluded[at]);

// Columns under the conventions of the moment.
const paramsColumn = () => store.runs[route.params] || store.runs.params;
const flopsColumn = () => store.runs[route.flops] || store.runs.flops || store.runs.nominal;
const lossFactor = () => (route.loss === "bits" && store.facts.bits ? store.facts.bits.ratio || 1 : 1);

function labelOf(at) {
  const { size, seed, nominal } = store.runs;
  const parts = [familyOf(at), size && size[at], nominal && !missing(nominal[at]) ? `at ${flopsText(nominal[at])} FLOPs` : ""];
  if (store.severalSeeds) parts.push(`seed ${seed[at]}`);
  return parts.filter(Boolean).join(" ");
}

function shownFamilies() {
  return route.family ? store.families.filter(name => route.family.has(name)) : store.families;
}
const shownBudget = budget => !route.budget || route.budget.has(flopsText(budget));

// Places of the runs that pass the filters.
function shownRuns() {
  const families = new Set(shownFamilies());
  const { family, nominal } = store.runs;
  const found = [];
  for (let at = 0; at < store.rows; at++) {
    if (family && !families.has(family[at])) continue;
    if (nominal && !missing(nominal[at]) && !shownBudget(nominal[at])) continue;
    found.push(at);
  }
  return found;
}

// -- laws

const countName = () => `${route.params}|${route.flops}`;
const lawsNow = () => store.laws[countName()] || null;
const lawOf = (family, method) => lawsNow()?.families?.[family]?.laws?.[method] || null;

// One kind of law for all that is drawn at once, so that families compare.
const methodNow = () => route.law || "surface";

function lawsNote() {
  const told = store.state.laws?.[countName()];
  if (store.carried) return lawsNow() ? "" : "Laws were not fitted with these counts when this file was written.";
  if (!store.facts.hash) return "";
  if (!told || (!told.etag && !told.problem)) return "Laws are being fitted; they appear as they come.";
  if (told.problem) return `The laws could not be fitted: ${told.problem}`;
  if (!told.done) return `Being fitted: ${told.stage || "laws"}`;
  return told.fresh ? "" : "Laws of an earlier state; newer runs are being fitted in.";
}

// -- families

function familyStyle(family) {
  if (LOOK.families[family]) return LOOK.families[family];
  let sum = 0;
  for (const letter of String(family)) sum = (sum * 31 + letter.codePointAt(0)) >>> 0;
  return { colour: LOOK.neutral, symbol: LOOK.spare[sum % LOOK.spare.length] };
}

function familyOrder(names) {
  const known = Object.keys(LOOK.families);
  const place = name => (known.includes(name) ? known.indexOf(name) : known.length);
  return [...names].filter(name => !missing(name)).sort((a, b) => place(a) - place(b) || (a < b ? -1 : 1));
}

const rgb = colour => [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16));
const seeThrough = (colour, opacity) => `rgba(${rgb(colour).join(", ")}, ${opacity})`;

function rampColours(count) {
  const ramp = LOOK.ramp.map(rgb);
  return Array.from({ length: count }, (_, at) => {
    const place = count > 1 ? (at * (ramp.length - 1)) / (count - 1) : 0;
    const first = Math.min(Math.floor(place), ramp.length - 2);
    const mixed = ramp[first].map((a, k) => Math.round(a + (place - first) * (ramp[first + 1][k] - a)));
    return "#" + mixed.map(v => v.toString(16).padStart(2, "0")).join("");
  });
}
