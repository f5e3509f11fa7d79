// All runs: sorted by any column, searched, and some of them laid over each other.

const MOST_COMPARED = 8;

function runTable(runs) {
  const table = byId("runs"), body = table.tBodies[0], controls = byId("run-controls");
  const lines = [...body.rows].map((row, i) => ({ row, run: runs[i], pick: row.querySelector(".pick"), text: row.textContent.toLowerCase() }));

  function valueOf(line, column) {
    const text = line.row.cells[column].dataset.value;
    return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
  }

  function sort(header) {
    const column = header.cellIndex, up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    lines.sort((a, b) => {
      const x = valueOf(a, column), y = valueOf(b, column);
      if (x === null || y === null) return (x === null) - (y === null);
      return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
    });
    body.append(...lines.map(line => line.row));
  }

  function search() {
    const text = controls.elements.text.value.toLowerCase();
    let found = 0;
    for (const line of lines) {
      line.row.hidden = !line.text.includes(text);
      if (!line.row.hidden) found++;
    }
    byId("run-status").textContent = text ? `${number(found)} of ${counted(lines.length, "run")}` : "";
  }

  function picked() {
    const chosen = lines.filter(line => line.pick.checked);
    for (const line of lines) line.pick.disabled = !line.pick.checked && chosen.length >= MOST_COMPARED;
    const ids = chosen.map(line => line.run.id);
    history.replaceState(null, "", ids.length ? `#compare=${ids.join(",")}` : location.pathname + location.search);
    compare(chosen.map(line => line.run));
  }

  for (const header of table.tHead.rows[0].cells) {
    if (!header.dataset.key) continue;
    const button = el("button", { type: "button", class: "plain" }, [...header.childNodes]);
    button.addEventListener("click", () => sort(header));
    header.replaceChildren(button);
  }
  controls.addEventListener("submit", event => event.preventDefault());
  controls.addEventListener("input", search);
  body.addEventListener("change", picked);
  const wanted = new Set(location.hash.startsWith("#compare=") ? location.hash.slice(9).split(",") : []);
  for (const line of lines) line.pick.checked = wanted.has(line.run.id);
  for (const part of document.querySelectorAll("[data-needs-script]")) part.hidden = false;
  if (wanted.size) picked();
}

function compare(runs) {
  const enough = runs.length >= 2;
  byId("comparison").hidden = !enough;
  byId("compare-hint").hidden = enough;
  byId("compare-hint").textContent = runs.length ? "Tick one more run above." : "Tick two or more runs above.";
  if (!enough) return;
  const names = runs.map((run, i) => runs.some((other, j) => j !== i && other.name === run.name) ? `${run.name} ${run.id.slice(-6)}` : run.name);
  byId("other-rows").hidden = new Set(runs.map(run => run.rows).filter(Boolean)).size < 2;
  const series = key => runs.map((run, i) => ({ name: names[i], points: run[key], look: `o${i}`, mark: key === "val" ? Object.keys(MARKS)[i % 3] : undefined, quiet: true }));
  byId("compare-legend").replaceChildren(legend(runs.map((run, i) => ({ name: names[i], points: [0], look: `o${i}`, mark: Object.keys(MARKS)[i % 3] }))));
  const group = [], log = byId("compare-log").checked;
  for (const [id, key, label] of [["compare-val", "val", "Loss on val"], ["compare-loss", "loss", "Loss of each step"]]) {
    const drawn = series(key), host = byId(id);
    host.closest("figure").hidden = !drawn.some(one => one.points.length);
    chart(host, drawn, { label, unit: "nats a token", x: "step", height: 260, log, group });
  }
  byId("compare-log").onchange = () => compare(runs);
  const measures = inOneOrder(runs.map(run => run.measures.map(measure => measure[0])));
  fillTable(byId("compare-measures"), "Measure", names, measures.map(name => [name, runs.map(run => (run.measures.find(measure => measure[0] === name) || [])[1] || "")]), true);
  const keys = inOneOrder(runs.map(run => Object.keys(run.settings)));
  const differing = keys.filter(key => new Set(runs.map(run => run.settings[key])).size > 1);
  fillTable(byId("compare-settings"), "Key", names, differing.map(key => [key, runs.map(run => run.settings[key] ?? "not set")]), false);
}

// All names of several lists, in the order of the longest.
const inOneOrder = lists => [...new Set([...lists].sort((a, b) => b.length - a.length).flat())];

function fillTable(table, first, names, lines, numbers) {
  const look = numbers ? { class: "n" } : {};
  table.replaceChildren(
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, first), names.map(name => el("th", { scope: "col", ...look }, shown(name))))),
    el("tbody", {}, lines.length
      ? lines.map(([name, values]) => el("tr", {}, el("th", { scope: "row" }, numbers ? shown(name) : el("code", {}, shown(name))), values.map(value => el("td", look, numbers ? shown(value) : el("code", {}, shown(value))))))
      : el("tr", {}, el("td", { colspan: names.length + 1 }, "in nothing"))));
}

if (byId("runs")) runTable(data.runs);
performance.mark("rows-shown");
