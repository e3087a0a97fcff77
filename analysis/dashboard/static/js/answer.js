// The answer to a budget, first on the page. Sentences, cells and figure come from Python; the page places them.

// fields of the address, and of a question to the server
const QUESTION = { flop: "budget", gpus: "gpus", days: "days", use: "utilisation", size: "size", tokens: "tokens", unique: "unique", epochs: "epochs" };
const LIMITS = ["size", "tokens", "unique", "epochs"];
const answersOfServer = new Map();

const questionNow = () => new URLSearchParams(Object.entries(QUESTION).filter(([own]) => route[own]).map(([own, name]) => [name, route[own]])).toString();
const costQuestion = () => (route.target ? new URLSearchParams({ loss: route.target }).toString() : "");
const nameOfAnswer = question => `${countName()} ${lawsNow()?.fitted_at} ${question}`;

// What the server said, or what came with the laws; null while it is not there.
function answerTo(question) {
  const ready = lawsNow()?.answers?.[question];
  return ready || answersOfServer.get(nameOfAnswer(question)) || null;
}

async function wantAnswer(question) {
  const name = nameOfAnswer(question);
  if (store.carried || !lawsNow() || answersOfServer.has(name)) return;
  answersOfServer.set(name, null);
  let answer;
  try {
    answer = await (await fetch(`api/answer?params=${route.params}&flops=${route.flops}&${question}`)).json();
  } catch {
    answer = { waiting: "The server does not answer." };
  }
  if (answer.waiting) setTimeout(() => answersOfServer.delete(name), POLL_MS);
  answersOfServer.set(name, answer);
  const section = document.getElementById("answer");
  if (!section) return;
  if (name === nameOfAnswer(costQuestion())) fillCosts(section);
  if (name === nameOfAnswer(questionNow())) showAnswer(section);
}

function answerSection() {
  return el("section", { id: "answer" }, el("div", { class: "verdict", role: "status" }), store.carried ? null : questionForm(), budgetChoices(), el("div", { class: "numbers" }),
    store.carried ? null : costForm(), el("div", { class: "costs" }));
}

const questionField = (name, words, placeholder) => el("label", {}, words,
  el("input", { type: "text", id: `question-${name}`, name, value: route[name] || "", placeholder, autocomplete: "off", maxlength: 60 }));

function questionForm() {
  const usual = lawsNow()?.ready?.find(([question]) => !question)?.[1];
  const limits = el("details", { class: "limits", open: LIMITS.some(name => route[name]) }, el("summary", {}, "Limits"),
    el("div", { class: "fields" }, questionField("size", "parameters", "any"), questionField("tokens", "tokens", "any"), questionField("unique", "unique tokens", "no limit"), questionField("epochs", "epochs allowed", "as pays")));
  return formOf("A budget", el("div", { class: "fields" }, questionField("flop", "budget (FLOPs)", usual || "1e20"), el("span", { class: "muted" }, "or"), questionField("gpus", "GPUs", "64xH100"),
    questionField("days", "days", "14"), questionField("use", "utilisation", "0.4"), el("button", { type: "submit" }, "Answer")), limits);
}

function formOf(label, ...parts) {
  const form = el("form", { class: "question", "aria-label": label }, parts);
  form.addEventListener("submit", event => {
    event.preventDefault();
    go(Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim()])));
  });
  for (const event of ["focusin", "input"]) form.addEventListener(event, wakeServer);
  return form;
}

// The process that answers ends when nobody asks, and takes a second or two to start: it does so while somebody types.
const AWAKE_MS = 60000;
let awakeUntil = 0;
function wakeServer() {
  if (store.carried || !lawsNow()?.answers || Date.now() < awakeUntil) return;
  awakeUntil = Date.now() + AWAKE_MS;
  fetch(`api/answer?params=${route.params}&flops=${route.flops}`).catch(() => null);
}

const costForm = () => el("details", { class: "costs", open: Boolean(route.target) }, el("summary", {}, "What does a loss cost?"),
  formOf("A loss", el("div", { class: "fields" }, questionField("target", "loss (nats per token)", "2.5"), el("button", { type: "submit" }, "Answer"))));

function budgetChoices() {
  const choices = lawsNow()?.ready || [];
  if (!choices.length) return null;
  const none = Object.fromEntries([...Object.keys(QUESTION), "target"].map(name => [name, ""]));
  const link = (question, text, words) => el("a", { class: "choice", href: address({ ...none, flop: new URLSearchParams(question).get("budget") || "" }), "aria-current": questionNow() === question ? "true" : null, title: words }, text);
  return el("p", { class: "choices" }, el("span", { class: "muted" }, "Answers for "), choices.map(([question, text, words]) => [link(question, text, words), " "]));
}

const GRADE_CLASS = { reliable: "good", "with care": "care", "do not use": "bad" };
const GRADE_MARK = { reliable: "✓", "with care": "!", "do not use": "✕" };

// Fills the section; the figure of the answer, if it has one.
function fillAnswer(section) {
  const question = questionNow(), answer = answerTo(question), laws = lawsNow();
  const verdict = section.querySelector(".verdict"), numbers = section.querySelector(".numbers");
  section.dataset.waiting = String(!answer);
  if (!answer) {
    const why = laws?.no_answer ? `No answer yet: ${laws.no_answer}.` : store.carried ? "This file has answers for the budgets below."
      : laws?.answers ? "Answering." : lawsNote() || "The answer comes with the laws.";
    if (laws?.answers && !laws.no_answer) wantAnswer(question);
    if (!verdict.children.length) verdict.replaceChildren(note(why));
    return null;
  }
  if (answer.problem || answer.waiting) {
    verdict.replaceChildren(note(answer.problem || answer.waiting, true));
    numbers.replaceChildren();
    return null;
  }
  const kind = GRADE_CLASS[answer.grade], opening = `Confidence: ${answer.grade}.`;
  verdict.replaceChildren(el("div", { class: `answer ${kind}` }, answer.sentences.map(sentence => el("p", { class: "sentence" }, sentence)),
    el("p", {}, el("span", { class: `grade ${kind}`, "aria-hidden": "true" }, GRADE_MARK[answer.grade]), el("strong", {}, opening), answer.confidence.slice(opening.length)),
    answer.more.length ? el("p", { class: "muted" }, `Also: ${answer.more.join("; ")}.`) : null));
  const figure = answer.families?.length > 1
    ? new Figure("Loss of every family above the best one, and the sizes as good as the best", answer.figure || laws.figures[`answer?${question}`] || null, { name: `answer?${question}`, laws }) : null;
  numbers.replaceChildren();
  add(numbers, answer.ranking ? rankingTable(answer.ranking, answer.caption) : null, figure?.box,
    answer.methods ? folded("Each method alone", () => rankingTable(answer.methods, "")) : null,
    Object.keys(answer.refused).length ? listOf(Object.entries(answer.refused).map(([name, reason]) => `no law of ${name || "these runs"}: ${reason}`)) : null);
  return figure;
}

function rankingTable({ columns, rows }, caption) {
  const visible = rows.filter(([family]) => !store.families.includes(family) || shownFamilies().includes(family));
  return tableOf(columns.map(title => ({ title })), visible.map(([family, ...cells]) => [familyCell(family), ...cells]), { caption, stacked: true });
}

function fillCosts(section) {
  const question = costQuestion(), costs = question && answerTo(question), box = section.querySelector("div.costs");
  if (question && !costs) wantAnswer(question);
  else box.replaceChildren(...(!question ? [] : [costs.costs ? rankingTable(costs.costs, costs.caption) : note(costs.problem || costs.waiting, true)]));
}

// What comes after the view was drawn takes its place; the forms, in which somebody may be typing, stay.
function showAnswer(section) {
  const before = figures.find(figure => figure.name.startsWith("answer?")), next = fillAnswer(section);
  figures = [...(next ? [next] : []), ...figures.filter(figure => figure !== before)];
  VIEWS.overview.picture = next || VIEWS.overview.best;
  next?.show(before);
  before?.gone();
  if (next) drawSoon();
}

function answerCsv() {
  const answer = answerTo(questionNow());
  if (!answer?.numbers) return null;
  const columns = Object.keys(answer.numbers[0]);
  return { columns, rows: answer.numbers.map(row => columns.map(name => row[name])) };
}
