// The rows: filtered, in order, a page at a time. Only what is on the page is in the document.

const FOLD_CHARACTERS = 1200, FOLD_LINES = 16;
const LITTLE_IN_COMMON = 0.2, MOST_TAGS = 300;

function answersBrowser(answers) {
  const { models, metrics, rows } = answers;
  const tags = answers.tags.map(([tag]) => tag);
  const measures = ["loss", ...metrics];
  const list = byId("rows"), status = byId("row-status"), controls = byId("row-controls");
  const control = Object.fromEntries([...controls.elements].filter(e => e.name).map(e => [e.name, e]));
  const searched = new Array(rows.length);
  let chosen = [], page = 0;

  const whole = text => Array.isArray(text) ? text[0] : text;
  const REFERENCE = 3, ANSWERS = 4;
  const answerOf = (row, model) => row[ANSWERS][models.indexOf(model)];
  const textOf = (row, answer) => answer[0] === null ? row[REFERENCE] : answer[0];
  const valueOf = (answer, measure) => !answer ? null : measure === "loss" ? answer[1] : answer[3][metrics.indexOf(measure)];

  // How much worse the right model is than the left one; null where that isn't known.
  function harm(row, measure) {
    const left = valueOf(answerOf(row, control.left.value), measure), right = valueOf(answerOf(row, control.right.value), measure);
    if (left === null || right === null) return null;
    return measure === "loss" ? right - left : left - right;
  }

  function fill(select, entries, selected) {
    select.replaceChildren(...entries.map(([value, text]) => el("option", { value, selected: value === selected }, shown(text))));
  }

  function choose() {
    const measure = control.measure.value, text = control.text.value.toLowerCase(), tag = control.tag.value;
    const found = [];
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i];
      if (tag !== "" && !row[1].includes(Number(tag))) continue;
      const worse = harm(row, measure);
      if (control.change.value === "worse" && !(worse > 0)) continue;
      if (control.change.value === "better" && !(worse < 0)) continue;
      if (control.change.value === "same" && worse !== 0) continue;
      if (text) {
        searched[i] ??= [row[0], ...row[1].map(n => tags[n]), ...row[2].map(m => whole(m[1])), whole(row[REFERENCE]),
          ...row[ANSWERS].map(a => a && a[0] !== null ? whole(a[0]) : "")].join("\n").toLowerCase();
        if (!searched[i].includes(text)) continue;
      }
      const own = valueOf(answerOf(row, control.right.value), measure);
      const bad = control.order.value.startsWith("own") ? (own === null || measure === "loss" ? own : -own) : worse;
      found.push([i, bad, harm(row, "loss") ?? 0]);
    }
    const order = { worst: -1, best: 1, "own-worst": -1, "own-best": 1 }[control.order.value];
    // Rows without a value go last; of like values the loss decides, then the file.
    if (order) found.sort((a, b) => (a[1] === null) - (b[1] === null) || order * (a[1] - b[1]) || order * (a[2] - b[2]) || a[0] - b[0]);
    chosen = found.map(([i]) => i);
  }

  function show(to) {
    const size = Number(control.size.value), pages = Math.max(1, Math.ceil(chosen.length / size));
    page = Math.min(pages - 1, Math.max(0, to));
    const from = page * size, here = chosen.slice(from, from + size);
    list.replaceChildren(...here.map(i => card(rows[i])));
    const some = chosen.length === rows.length ? counted(rows.length, "row") : `${number(chosen.length)} of ${counted(rows.length, "row")}`;
    status.textContent = here.length ? `${number(from + 1)} to ${number(from + here.length)} of ${some}` : `No row matches; there are ${number(rows.length)}.`;
    byId("page-number").textContent = `Page ${number(page + 1)} of ${number(pages)}`;
    for (const [id, dead] of [["page-first", page === 0], ["page-back", page === 0], ["page-on", page >= pages - 1], ["page-last", page >= pages - 1]]) byId(id).disabled = dead;
  }

  function again() { choose(); show(0); }

  function card(row) {
    const left = answerOf(row, control.left.value), right = answerOf(row, control.right.value);
    const conversation = row[2].map(([role, text]) => [el("dt", {}, shown(role)), el("dd", {}, block(text))]);
    return el("li", {},
      el("div", {}, el("h3", {}, el("code", { class: "data" }, shown(row[0]))),
        row[1].length ? el("span", { class: "tags" }, row[1].map((n, i) => [i ? ", " : "", ...shown(tags[n])])) : null),
      el("dl", { class: "values" }, measures.map(measure => values(row, left, right, measure))),
      el("dl", { class: "said" }, conversation, el("dt", {}, "reference"), el("dd", {}, block(row[REFERENCE]))),
      el("div", { class: "pair" }, answer(row, control.left.value, left, right, "left"), answer(row, control.right.value, right, left, "right")));
  }

  function values(row, left, right, measure) {
    const before = valueOf(left, measure), after = valueOf(right, measure);
    if (before === null && after === null) return null;
    const shownAs = value => value === null ? "none" : measure === "loss" ? value.toFixed(4) : String(Number(value.toFixed(3)));
    const worse = harm(row, measure);
    const sign = !worse ? null : worse > 0 ? el("span", { class: "worse" }, "▼", el("span", { class: "hidden" }, " worse")) : el("span", { class: "better" }, "▲", el("span", { class: "hidden" }, " better"));
    const over = measure === "loss" ? ` over ${counted((left || right)[2], "token")}` : "";
    return el("div", {}, el("dt", {}, shown(measure)), el("dd", {}, shownAs(before), el("span", { class: "arrow" }, " → "), shownAs(after), over, " ", sign));
  }

  function answer(row, model, one, other, side) {
    const title = el("h4", {}, el("b", {}, shown(model)));
    if (!one) return el("section", {}, title, nothing("not measured on this row"));
    const same = one[0] === null;
    if (one[4] !== null) append(title, [", likeliest choice: ", ...shown(one[4])]);
    if (one[5]) title.append(", cut at max_new_tokens");
    if (same) title.append(", equals the reference");
    const text = textOf(row, one);
    if (text === "" && one[3].every(value => value === null)) return el("section", {}, title, nothing("nothing was generated"));
    if (text === "") return el("section", {}, title, nothing("an empty answer"));
    const [parts, note] = marks(row, whole(text), other, side);
    if (note) title.append(`, ${note}`);
    return el("section", {}, title, block(text, parts && parts.map(marked)));
  }

  // [[kind, piece], …] or null where nothing is marked, and a remark.
  function marks(row, text, other, side) {
    const against = control.marks.value === "reference";
    if (!control.marks.value || !against && !other) return [null, ""];
    const beside = whole(against ? row[REFERENCE] : textOf(row, other));
    if (beside === text) return [null, ""];
    const parts = difference(beside, text);
    if (!parts) return [null, "too long to be compared word by word"];
    const same = parts.reduce((sum, [kind, piece]) => kind === "same" ? sum + piece.length : sum, 0);
    if (same < LITTLE_IN_COMMON * Math.max(beside.length, text.length)) return [null, `little in common with the ${against ? "reference" : "other"}`];
    return [against ? parts : parts.filter(([kind]) => kind !== "gone").map(([kind, piece]) => [kind === "come" ? side : kind, piece]), ""];
  }

  const nothing = text => el("p", { class: "data" }, el("span", { class: "none" }, text));

  // A text from data; folded where it is long.
  function block(text, parts) {
    const all = whole(text);
    if (all === "") return nothing("empty");
    const box = el("p", { class: "data", dir: "auto" }, parts || shown(all));
    if (Array.isArray(text)) box.append(el("span", { class: "none" }, ` … cut here: ${number(text[1])} characters in predictions.jsonl`));
    if (all.length <= FOLD_CHARACTERS && all.split("\n", FOLD_LINES + 1).length <= FOLD_LINES) return box;
    box.classList.add("folded");
    const button = el("button", { type: "button", class: "small", "aria-expanded": "false" }, `Show all (${number(all.length)} characters)`);
    button.addEventListener("click", () => {
      const folded = box.classList.toggle("folded");
      button.setAttribute("aria-expanded", String(!folded));
      button.textContent = folded ? `Show all (${number(all.length)} characters)` : "Fold";
    });
    return [box, button];
  }

  function marked([kind, text]) {
    if (kind === "same") return shown(text);
    const name = { left: "mark", right: "mark", come: "ins", gone: "del" }[kind];
    const lines = text.split("\n");
    return el(name, { class: kind === "left" && "left" }, lines.map((line, i) => [i ? "↵\n" : "", ...shown(line)]));
  }

  fill(control.tag, [["", `all (${number(rows.length)})`], ...answers.tags.slice(0, MOST_TAGS).map(([tag, count], i) => [String(i), `${tag} (${number(count)})`])], "");
  // The metric that most rows have: others are of some tags only.
  const measured = metrics.map((_, i) => rows.reduce((sum, row) => sum + (row[ANSWERS].some(a => a && a[3][i] !== null)), 0));
  fill(control.measure, measures.map(name => [name, name]), metrics[measured.indexOf(Math.max(...measured))] || "loss");
  fill(control.left, models.map(name => [name, name]), "base");
  fill(control.right, models.map(name => [name, name]), "adapter");
  for (const name of ["left", "right"]) control[name].closest("label").hidden = models.length < 3;
  let waiting;
  controls.addEventListener("input", event => {
    clearTimeout(waiting);
    waiting = setTimeout(again, event.target === control.text ? 150 : 0);
  });
  controls.addEventListener("submit", event => event.preventDefault());
  controls.addEventListener("reset", () => setTimeout(again));
  const turn = to => { show(to); byId("answers").scrollIntoView(); };
  byId("page-first").addEventListener("click", () => turn(0));
  byId("page-back").addEventListener("click", () => turn(page - 1));
  byId("page-on").addEventListener("click", () => turn(page + 1));
  byId("page-last").addEventListener("click", () => turn(Infinity));
  for (const button of document.querySelectorAll("button[data-row]")) {
    button.addEventListener("click", () => {
      controls.reset();
      control.measure.value = measures.includes(button.dataset.measure) ? button.dataset.measure : measures[0];
      control.text.value = button.dataset.row;
      setTimeout(() => { again(); byId("answers").scrollIntoView(); control.text.focus({ preventScroll: true }); });
    });
  }
  for (const part of document.querySelectorAll("[data-needs-script]")) part.hidden = false;
  again();
}
