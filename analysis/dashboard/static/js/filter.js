// Finding runs: words, and comparisons such as loss<2.5; a run must meet all of them.

const ALIASES = { run: "key", n: "params", d: "tokens", c: "nominal", budget: "nominal", lr: "learning_rate", state: "status", time: "wall_s", parameters: "params" };
const UNITS = { k: 1e3, m: 1e6, b: 1e9, t: 1e12 };
const COMPARISON = /^([^<>=!~]*)(<=|>=|!=|<|>|=|~)(.*)$/;
const ABOUT = "numbers as 2.5, 1e20 or 300M";

// {tests: functions of a place, problem: a sentence or ""}; what cannot be read is left out and named.
function parseFilter(text) {
  const tests = [], problems = [];
  const joined = text.replaceAll("≤", "<=").replaceAll("≥", ">=").replaceAll("==", "=").replace(/\s*(<=|>=|!=|<|>|=|~)\s*/g, "$1");
  for (const word of joined.split(/\s+/).filter(Boolean)) {
    const [, name, operator, value] = word.match(COMPARISON) || [];
    if (operator === undefined) tests.push(wordTest(word.toLowerCase()));
    else {
      const test = comparisonTest(name.toLowerCase(), operator, value);
      typeof test === "string" ? problems.push(test) : tests.push(test);
    }
  }
  return { tests, problem: problems.join(" ") };
}

function readNumber(text) {
  const [, digits, unit] = text.trim().match(/^([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)([kmbt]?)$/i) || [];
  return digits === undefined ? null : { value: Number(digits) * (UNITS[(unit || "").toLowerCase()] || 1), digits: Math.max(2, digits.replace(/e.*/i, "").replace(/\D|^0+/g, "").length) };
}

// Equal to as many digits as were written: 1e20 finds a budget of 1.04e20, and 1.00e20 does not.
const isAlike = (x, { value, digits }) => Number.isFinite(x) && Number(x.toPrecision(digits)) === Number(value.toPrecision(digits));

function wordTest(word) {
  const { key, size, host, nominal } = store.runs, number = readNumber(word);
  return at => {
    const texts = [key[at], familyOf(at), size?.[at], statusOf(at), host?.[at], labelOf(at), noteOf(key[at]).star ? "starred" : "", noteOf(key[at]).note];
    return texts.join(" ").toLowerCase().includes(word) || (number !== null && nominal && isAlike(nominal[at], number));
  };
}

function valuesNamed(name) {
  if (name === "note") return store.runs.key.map(key => noteOf(key).note || null);
  const values = { params: paramsColumn(), flops: flopsColumn() }[name] || store.runs[name];
  return name === "loss" ? values?.map(loss => times(loss, lossFactor())) : values;
}

function comparisonTest(word, operator, value) {
  const name = ALIASES[word] || word, values = valuesNamed(name);
  if (!values) {
    const names = [...Object.keys(store.runs).filter(one => one !== "nominal"), ...(store.runs.nominal ? ["budget"] : [])];
    const near = names.filter(one => one.slice(0, 2) === word.slice(0, 2) || (word && one.includes(word)));
    return `There is no column "${word}"; try ${(near.length ? near : names).slice(0, 8).join(", ")}.`;
  }
  if (!value) return `${word}${operator} needs a value, as in loss<2.5.`;
  const number = readNumber(value), isText = values.some(one => typeof one === "string");
  if (isText || operator === "~") {
    if (operator === "<" || operator === ">" || operator === "<=" || operator === ">=") return `${word} holds texts; write ${word}=${value} or ${word}~${value}.`;
    const plain = value.toLowerCase(), text = at => String(values[at] ?? "").toLowerCase();
    return { "=": at => text(at) === plain, "!=": at => text(at) !== plain, "~": at => text(at).includes(plain) }[operator];
  }
  if (number === null) return `"${value}" is no number for ${word}; write ${ABOUT}.`;
  const known = test => at => !missing(values[at]) && test(values[at]);
  return {
    "=": known(x => isAlike(x, number)), "!=": known(x => !isAlike(x, number)), "<": known(x => x < number.value), ">": known(x => x > number.value),
    "<=": known(x => x <= number.value || isAlike(x, number)), ">=": known(x => x >= number.value || isAlike(x, number)),
  }[operator];
}
