// Numbers in the forms of analysis/text.py.

const missing = x => x === null || x === undefined || Number.isNaN(x);

function sig(x, digits = 3) {
  if (missing(x)) return "";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "-∞";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e5 || size < 1e-3) return expo(x, digits - 1);
  const places = Math.max(0, digits - 1 - Math.floor(Math.log10(Number(size.toPrecision(digits)))));
  return x.toFixed(places);
}

const expo = (x, places = 1) => x.toExponential(places).replace("e+", "e");
function flopsText(x) {
  if (missing(x)) return "";
  if (x === 0) return "0";
  return Number.isFinite(x) ? expo(x, 1) : "∞";
}
const computeText = x => flopsText(x).replace(".0e", "e");

// As a label: without zeros at the end. In a sentence or a table, `amountText`: three digits always.
function countText(x, digits = 3) {
  return amountText(x, digits).replace(/(\.\d*?)0+(?=\D?$)/, "$1").replace(/\.(?=\D?$)/, "");
}

function amountText(x, digits = 3) {
  if (missing(x)) return "";
  if (!Number.isFinite(x)) return "∞";
  const rounded = Number(x.toPrecision(digits));
  if (rounded >= 1e15) return expo(rounded, digits - 1);
  for (const [size, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (rounded >= size) return (rounded / size).toPrecision(digits) + letter;
  }
  return String(rounded);
}

// Enough decimals to show the width of the interval with two digits, at most four.
function lossText(x, low, high) {
  if (missing(x)) return "";
  if (missing(low) || missing(high)) return x.toFixed(3);
  const width = high - low;
  const places = width > 0 ? Math.min(4, Math.max(2, 1 - Math.floor(Math.log10(width)))) : 3;
  return `${x.toFixed(places)} [${end(low, places)}, ${end(high, places)}]`;
}
const end = (x, places) => (Number.isFinite(x) ? x.toFixed(places) : "∞");

function intervalText(x, low, high, text = sig) {
  if (missing(x)) return "";
  return missing(low) || missing(high) ? text(x) : `${text(x)} [${text(low)}, ${text(high)}]`;
}

function durationText(seconds) {
  if (missing(seconds)) return "";
  if (seconds < 90) return `${sig(seconds, 2)} s`;
  if (seconds < 5400) return `${(seconds / 60).toFixed(seconds < 600 ? 1 : 0)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} days`;
}

const counted = (count, one, several = `${one}s`) => `${count.toLocaleString("en-US")} ${count === 1 ? one : several}`;

const timeText = at => (missing(at) ? "" : new Date(at * 1000).toISOString().slice(0, 16).replace("T", " ") + " UTC");

const COUNT_NAMES = {
  params_total: "all parameters", params_non_embedding: "without embeddings", params_body: "transformer blocks only",
  flops_exact: "exact", flops_6nd: "6 N D", flops_sahoo2026: "as Sahoo et al. 2026", own: "as in the table",
};
const LOSS_NAMES = { nats: "nats per token", bits: "bits per byte" };
