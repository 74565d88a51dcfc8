// The sample explorer: one document, every cell's answer. A task's data are parsed when it is first looked at.

const explorer = { group: null, data: null, pictures: null, index: 0, list: [], parsed: new Map(), buttons: new Map() };
const hasSamples = element("samples-0") !== null;

function numbersOf(text) {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  return Uint16Array.from({ length: bytes.length / 2 }, (_, at) => bytes[2 * at] | (bytes[2 * at + 1] << 8));
}

function samplesOf(group) {
  if (!explorer.parsed.has(group)) {
    const data = read(`samples-${group}`);
    data.given = new Map(Object.entries(data.given).map(([index, text]) => [Number(index), numbersOf(text)]));
    explorer.parsed.set(group, data);
  }
  return explorer.parsed.get(group);
}

function picturesOf(group) {
  const index = report.pictures[report.groups[group].task];
  const key = `pictures-${index}`;
  if (!explorer.parsed.has(key)) explorer.parsed.set(key, read(key));
  return explorer.parsed.get(key);
}

/** [text, score, error?] of a cell for the document at a place; undefined if it has none. */
function answerOf(cell, at) {
  const number = explorer.data.given.get(cell)?.[at] ?? 0;
  return number ? explorer.data.answers[at][number - 1] : undefined;
}

const rightFrom = () => Number(element("sample-right").value);
function verdict(answer) {
  if (answer === undefined || answer[1] === null) return "none";
  if (answer[1] >= rightFrom()) return "right";
  return answer[1] > 0 ? "part" : "wrong";
}
const isRight = (answer) => verdict(answer) === "right";
const isWrong = (answer) => ["part", "wrong"].includes(verdict(answer));

const cellsOf = (group) => cells.flatMap((cell, index) => (cell.group === group ? [{ ...cell, index }] : []));
function fullOf(group) {
  const full = cellsOf(group).filter((cell) => cell.method === "fullkv" && !cell.ablation);
  return full.find((cell) => cell.prompt === "image_question") ?? full[0];
}
/** Cells beside FullKV. */
const othersOf = (group) => {
  const full = fullOf(group);
  return cellsOf(group).filter((cell) => cell.index !== full?.index);
};
const columnsOf = (rows) => {
  const order = new Map(rows.map((row) => [row.column, [row.budget === null, row.place]]));
  return [...order.keys()].sort((one, other) => order.get(one)[0] - order.get(other)[0] || order.get(one)[1] - order.get(other)[1]);
};

/** The group, filter and document that the state names; what it does not name is the first. */
function applyExplorer() {
  if (!hasSamples) return;
  const names = report.groups.map((group) => group.name);
  const group = Math.max(0, names.indexOf(state.task ?? names[0]));
  if (group !== explorer.group) {
    explorer.group = group;
    explorer.data = samplesOf(group);
    explorer.pictures = picturesOf(group);
    buildGrid();
  }
  const others = othersOf(group);
  fill(element("sample-group"), names.map((name, at) => [String(at), name]), String(group));
  element("sample-show").value = state.show ?? "all";
  if (element("sample-show").selectedIndex < 0) element("sample-show").value = "all";
  element("sample-right").value = state.right !== null && !Number.isNaN(Number(state.right)) ? state.right : "0.5";
  const variants = unique(others.map((cell) => cell.variant));
  const usual = others.find((cell) => cell.method === "sparsemm") ?? others[0];
  fill(element("sample-line"), variants.map((one) => [one, one]), variants.includes(state.line) ? state.line : usual?.variant ?? "");
  const columns = columnsOf(others.filter((cell) => cell.variant === element("sample-line").value));
  fill(element("sample-column"), columns.map((one) => [one, one]), columns.includes(state.column) ? state.column : columns[Math.floor(columns.length / 3)] ?? "");
  const needsCell = ["lost", "gained", "changed"].includes(element("sample-show").value);
  element("sample-line-field").hidden = element("sample-column-field").hidden = !needsCell;
  explorer.list = matching(others);
  const wanted = explorer.data.documents.indexOf(Number(state.doc));
  const place = state.doc === null ? 0 : explorer.list.indexOf(wanted);
  explorer.index = Math.max(0, place);
  drawSample();
}

function matching(others) {
  const { documents } = explorer.data;
  const full = fullOf(explorer.group)?.index;
  const show = element("sample-show").value;
  const chosen = others.find((cell) => cell.variant === element("sample-line").value && cell.column === element("sample-column").value)?.index;
  const tests = {
    all: () => true,
    right: (at) => isRight(answerOf(full, at)),
    wrong: (at) => isWrong(answerOf(full, at)),
    lost: (at) => isRight(answerOf(full, at)) && isWrong(answerOf(chosen, at)),
    gained: (at) => isWrong(answerOf(full, at)) && isRight(answerOf(chosen, at)),
    changed: (at) => answerOf(full, at)?.[0] !== answerOf(chosen, at)?.[0],
  };
  return documents.flatMap((_, at) => (tests[show](at) ? [at] : []));
}

function buildGrid() {
  const others = othersOf(explorer.group);
  const columns = columnsOf(others);
  const variants = unique(others.map((cell) => cell.variant));
  explorer.buttons.clear();
  const head = make("tr", {}, make("th", { scope: "col", text: others.length ? "method" : "" }));
  for (const column of columns) head.append(make("th", { scope: "col", text: column }));
  const body = make("tbody");
  for (const variant of variants) {
    const rows = others.filter((cell) => cell.variant === variant);
    const style = rows[0].budget === null && rows[0].ablation ? ablationOf.get(rows[0].ablation) : methodOf.get(rows[0].method);
    const line = make("tr", {}, make("th", { scope: "row" }, swatch(themed(style.color)), variant));
    for (const column of columns) {
      const cell = rows.find((row) => row.column === column);
      const slot = make("td");
      if (cell) {
        const button = make("button", { type: "button", class: "answer", onclick: () => openAnswer(cell) });
        explorer.buttons.set(cell.index, button);
        slot.append(button);
      }
      line.append(slot);
    }
    body.append(line);
  }
  element("sample-grid").replaceChildren(make("thead", {}, head), body);
  const lengths = explorer.data.answers.slice(0, 50).flat().map(([text]) => text.length);
  element("sample-grid").className = lengths.length && mean(lengths) < 10 ? "short" : "";
  if (!others.length) element("sample-grid").replaceChildren(make("caption", { text: "FullKV alone was measured." }));
}

function openAnswer(cell) {
  choose({ open: cell.id, at: "explorer", doc: String(explorer.data.documents[explorer.list[explorer.index]]) });
  drawDetail();
}

const SIGNS = { right: "✓", part: "~", wrong: "✗", none: "?" };
const textOf = (answer) => (answer === undefined ? "(not answered)" : answer[2] ? `(failed: ${answer[2]})` : answer[0] === "" ? "(empty)" : answer[0]);
const scoreOf = (answer) => (answer === undefined || answer[1] === null ? "" : String(answer[1]));

function drawSample() {
  const { data, list, index } = explorer;
  const total = data.documents.length;
  const none = list.length === 0;
  element("sample-previous").disabled = none || index === 0;
  element("sample-next").disabled = none || index >= list.length - 1;
  const of = data.total > total ? `the first ${total} of ${data.total}` : `${total}`;
  element("sample-count").textContent = none ? `none of ${of} documents` : `${index + 1} of ${list.length}${list.length === total ? "" : ` that match, of ${of} documents`}${list.length === total && data.total > total ? ` (${of} documents)` : ""}`;
  document.querySelector(".sample").hidden = none;
  if (none) {
    element("sample-document").value = "";
    return;
  }
  const at = list[index];
  element("sample-document").value = data.documents[at];
  const picture = data.pictured[at] ? explorer.pictures[data.documents[at]] : "";
  const image = element("sample-picture");
  image.hidden = !picture;
  if (picture) image.src = `data:image/webp;base64,${picture}`;
  else image.removeAttribute("src");
  image.alt = picture ? `Picture of document ${data.documents[at]}` : "";
  element("sample-caption").textContent = [picture ? "" : data.problems[at] ? `The picture cannot be shown: ${data.problems[at]}` : "No picture is at hand", data.prompt_tokens[at] === null ? "" : `${data.prompt_tokens[at]} prompt tokens`].filter(Boolean).join(" · ");
  element("sample-question").textContent = data.questions[at] ?? "(not at hand)";
  element("sample-target").textContent = data.targets[at].join("\n") || "(none)";
  const full = fullOf(explorer.group);
  const answer = full ? answerOf(full.index, at) : undefined;
  element("sample-full").textContent = full ? textOf(answer) : "(FullKV was not measured)";
  element("sample-full").className = full ? verdict(answer) : "none";
  element("sample-full-score").textContent = full ? `${SIGNS[verdict(answer)]} ${scoreOf(answer)}` : "";
  for (const [cell, button] of explorer.buttons) {
    const held = answerOf(cell, at);
    const kind = verdict(held);
    button.className = `answer ${kind}`;
    button.replaceChildren(
      make("span", { class: "sign", text: kind === "part" ? scoreOf(held) : SIGNS[kind] }),
      make("span", { class: "text", dir: "auto", text: textOf(held) }),
    );
    button.setAttribute("aria-label", `${cells[cell].variant}, ${cells[cell].column}: ${{ right: "right", part: "in part", wrong: "wrong", none: "no score" }[kind]}: ${textOf(held)}`);
  }
  drawDetail();
}

function drawDetail() {
  const box = element("sample-detail");
  const cell = cellsOf(explorer.group).find((one) => one.id === state.open && explorer.buttons.has(one.index));
  for (const [index, button] of explorer.buttons) button.setAttribute("aria-pressed", String(index === cell?.index));
  if (!cell) {
    box.replaceChildren(make("p", { text: "Choose an answer to read all of it." }));
    return;
  }
  const at = explorer.list[explorer.index];
  const answer = answerOf(cell.index, at);
  const full = fullOf(explorer.group);
  const same = full && answer && answerOf(full.index, at)?.[0] === answer[0];
  const facts = [`score ${scoreOf(answer) || "none"}`, `over all documents ${digits(cell.score)}`];
  if (same) facts.push("the same text as FullKV's");
  box.replaceChildren(
    make("h3", { text: `${cell.variant}, ${cell.column}` }),
    make("p", { text: facts.join(" · ") }),
    make("pre", { dir: "auto", text: textOf(answer) }),
    make("p", {}, make("button", {
      type: "button", text: "Documents right in FullKV, wrong here",
      onclick: () => explore({ show: "lost", line: cell.variant, column: cell.column, doc: null }),
    })),
  );
}

/** Change what the explorer shows. */
function explore(changes) {
  choose({ at: "explorer", ...changes });
  applyExplorer();
  const now = explorer.list[explorer.index];
  if (now !== undefined) choose({ doc: String(explorer.data.documents[now]) });
}

function step(by) {
  const next = explorer.list[explorer.index + by];
  if (next === undefined) return;
  explorer.index += by;
  choose({ at: "explorer", doc: String(explorer.data.documents[next]) });
  drawSample();
}

function drawSampleGrid() {
  if (!hasSamples || explorer.data === null) return;
  buildGrid();
  drawSample();
}

function startExplorer() {
  if (!hasSamples) return;
  applyExplorer();
  const on = (id, event, action) => element(id).addEventListener(event, action);
  on("sample-group", "change", (event) => explore({ task: report.groups[Number(event.target.value)].name, doc: null, line: null, column: null, open: null }));
  on("sample-show", "change", (event) => explore({ show: event.target.value, doc: state.doc }));
  on("sample-line", "change", (event) => explore({ line: event.target.value, column: element("sample-column").value }));
  on("sample-column", "change", (event) => explore({ line: element("sample-line").value, column: event.target.value }));
  on("sample-right", "change", (event) => explore({ right: event.target.value }));
  on("sample-previous", "click", () => step(-1));
  on("sample-next", "click", () => step(1));
  on("sample-document", "change", (event) => {
    const at = explorer.data.documents.indexOf(Number(event.target.value));
    if (at < 0) event.target.value = explorer.data.documents[explorer.list[explorer.index]] ?? "";
    else explore({ doc: event.target.value, show: explorer.list.includes(at) ? state.show : "all" });
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.closest("input, select, textarea")) return;
    if (event.key.startsWith("Arrow") && event.target.closest(".scroll[tabindex], pre[tabindex]")) return;
    const by = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });
}
