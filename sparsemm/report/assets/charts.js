// Charts by Plotly. Text from data is made plain first: Plotly reads a little HTML in labels.

const MARKERS = {
  o: "circle", s: "square", "^": "triangle-up", v: "triangle-down", D: "diamond", d: "diamond-tall", p: "pentagon",
  P: "cross", X: "x", "<": "triangle-left", ">": "triangle-right", h: "hexagon", H: "hexagon2", 8: "octagon", "*": "star",
};
const DASHES = { "-": "solid", "--": "dash", ":": "dot", "-.": "dashdot" };

const plain = (text) => String(text).replace(/[&<>]/g, (one) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[one]);
const digits = (value, count = 3) => (value === null || value === undefined ? "–" : value.toFixed(count));
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

const drawn = new Map();

function layout(extra) {
  const axis = { gridcolor: variable("--line"), zeroline: false, linecolor: variable("--line"), automargin: true };
  const { xaxis, yaxis, ...rest } = extra;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 48, r: 12, t: 8, b: 42 },
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: variable("--ink") },
    hoverlabel: { bgcolor: variable("--panel"), bordercolor: variable("--line"), font: { color: variable("--ink") }, align: "left" },
    showlegend: false, hovermode: "closest", dragmode: false,
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}

// Plotly is large: it is read once everything else can be used. Until then charts wait in their boxes.
const waiting = [];

function loadPlotly() {
  // A copy of an inert script runs now; the page's policy knows its hash.
  document.head.append(make("script", { text: element("plotly").textContent }));
  for (const draw of waiting.splice(0)) draw();
  document.documentElement.dataset.drawn = Math.round(performance.now());
}

/** Put a chart into a box; a description for those who cannot see it. */
function plot(box, title, note, traces, extra, label, height = null) {
  const area = make("div", { class: "area", role: "img", "aria-label": label });
  if (height) area.style.height = `${height}px`;
  box.append(make("div", { class: "plot" }, make("h3", { text: title }), make("p", { text: note }), area));
  const draw = () => {
    if (area.isConnected) Plotly.newPlot(area, traces, layout(extra), { displaylogo: false, responsive: true, displayModeBar: false });
  };
  if (window.Plotly) draw();
  else waiting.push(draw);
}

function clear(box) {
  for (const area of box.querySelectorAll(".js-plotly-plot")) Plotly.purge(area);
  box.replaceChildren();
}

/** Points of a line: mean over seeds, and the ends of its bar. */
function pointsOf(rows) {
  const places = unique(rows.map((row) => row.place)).sort((one, other) => one - other);
  return places.map((place) => {
    const here = rows.filter((row) => row.place === place && row.score !== null);
    const scores = here.map((row) => row.score);
    const ends = here.length > 1 ? [Math.min(...scores), Math.max(...scores)] : here[0]?.ci ?? [null, null];
    return { place, score: scores.length ? mean(scores) : null, ends, rows: here };
  });
}

function hover(line, point) {
  const [row] = point.rows;
  const lines = [`<b>${plain(line)}</b>`, `${row.ablation && row.budget === null ? "" : "budget "}${plain(row.column)}`];
  if (row.realised !== null) lines.push(`realised ${digits(mean(point.rows.map((one) => one.realised ?? 0)), 1)}`);
  lines.push(`score ${digits(point.score)}`);
  if (point.ends[0] !== null) lines.push(`${point.rows.length > 1 ? `${point.rows.length} seeds` : "95%"} [${digits(point.ends[0])}, ${digits(point.ends[1])}]`);
  if (point.rows.length === 1 && row.diff !== null && row.mark) {
    const word = { better: "better", worse: "worse", equal: "not told apart" }[row.mark];
    lines.push(`to FullKV ${row.diff >= 0 ? "+" : "−"}${digits(Math.abs(row.diff))} (${word})`);
  }
  return lines.join("<br>");
}

function trace(line, style, rows, dashed) {
  const name = rows[0].budget === null && rows[0].ablation ? style.label : line;
  const points = pointsOf(rows).filter((point) => point.score !== null);
  const color = themed(style.color);
  const bars = points.every((point) => point.ends[0] !== null && point.ends[1] !== null);
  return {
    type: "scatter", mode: "lines+markers", name: plain(name),
    x: points.map((point) => point.place), y: points.map((point) => point.score),
    text: points.map((point) => hover(line, point)), hovertemplate: "%{text}<extra></extra>",
    line: { color, width: 1.8, dash: dashed ? "dashdot" : DASHES[style.dash] ?? "solid" },
    marker: { color, size: 7, symbol: (MARKERS[style.marker] ?? "circle") + (style.filled === false ? "-open" : "") },
    error_y: bars
      ? { type: "data", symmetric: false, array: points.map((point) => point.ends[1] - point.score),
          arrayminus: points.map((point) => point.score - point.ends[0]), thickness: 1, width: 0, color }
      : { visible: false },
  };
}

function level(row, ends) {
  const points = pointsOf([row]);
  const color = themed(methodOf.get(row.method).color);
  return {
    type: "scatter", mode: "lines", x: ends, y: [row.score, row.score], name: "FullKV",
    text: [hover(row.line, points[0]), hover(row.line, points[0])], hovertemplate: "%{text}<extra></extra>",
    line: { color, width: 1.4, dash: "dash" },
  };
}

function drawAccuracy() {
  const box = element("accuracy-plots");
  clear(box);
  const methods = shownMethods();
  const prompts = unique(cells.filter((cell) => promptShown(cell.prompt)).map((cell) => cell.prompt));
  for (const index of shownGroups()) {
    const group = report.groups[index];
    const mine = cells.filter((cell) => cell.group === index && methods.has(cell.method));
    const full = mine.find((cell) => cell.method === "fullkv" && !cell.ablation);
    const shown = mine.filter((cell) => promptShown(cell.prompt));
    const tokens = shown.filter((cell) => cell.budget > 1);
    const shares = shown.filter((cell) => cell.budget !== null && cell.budget <= 1);
    const masked = shown.filter((cell) => cell.budget === null && cell.ablation);
    const kinds = [];
    if (tokens.length) kinds.push([tokens, true]);
    if (shares.length) kinds.push([shares, true]);
    if (masked.length || (!kinds.length && full)) kinds.push([masked, false]);
    for (const [rows, budgets] of kinds) drawLines(box, group, rows, full, budgets, prompts.length > 1);
  }
  if (!box.children.length) box.append(make("p", { class: "missing", text: cells.length ? "Nothing is chosen." : "There are no cells yet." }));
}

function drawLines(box, group, rows, full, budgets, severalPrompts) {
  // SparseMM lies on top.
  const lines = unique([...rows].sort((one, other) => (one.method === "sparsemm") - (other.method === "sparsemm")).map((row) => row.line));
  const traces = lines.map((line) => {
    const here = rows.filter((row) => row.line === line);
    const style = budgets ? methodOf.get(here[0].method) : { marker: "o", ...ablationOf.get(here[0].ablation) };
    return trace(line, style, here, severalPrompts && here[0].prompt === "question_after_compression");
  });
  const places = unique(rows.map((row) => row.place)).sort((one, other) => one - other);
  const ends = places.length ? [places[0], places.at(-1)] : [0, 1];
  if (full && full.score !== null) traces.unshift(level(full, budgets ? ends : [0, Math.max(ends[1], 0.01)]));
  const label = (place) => rows.find((row) => row.place === place).column.replace(" of heads off", "");
  // Labels that would overlap are left out, from the largest down.
  const at = (place) => (budgets ? Math.log2(place) : place);
  const pixels = Math.max(200, (box.clientWidth > 980 ? box.clientWidth / 2 : box.clientWidth) - 100);
  const distance = (one, other) => (Math.abs(at(one) - at(other)) / Math.max(at(ends[1]) - at(ends[0]), 1e-9)) * pixels;
  const kept = [];
  for (const place of [...places].reverse()) if (!kept.length || distance(kept.at(-1), place) > 30) kept.push(place);
  const parts = [`${group.metric}`, `n = ${group.n}`];
  if (severalPrompts && budgets) parts.push("dash-dotted: question after compression");
  const title = budgets ? group.name : `${group.name}: without some heads`;
  const summary = traces.map((one) => `${one.name}: ${one.y.map((score) => digits(score)).join(", ")}`).join("; ");
  plot(box, title, parts.join(" · "), traces, {
    xaxis: {
      type: budgets ? "log" : "linear", autorange: budgets ? "reversed" : true, tickvals: kept, ticktext: kept.map(label).map(plain), tickangle: 0,
      title: { text: budgets ? "budget" : "query heads switched off", standoff: 6 },
    },
    yaxis: { rangemode: "tozero" },
    ...(budgets ? {} : { showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 48, r: 12, t: 28, b: 42 } }),
  }, `${title}, score by ${budgets ? "budget" : "share of heads off"}. ${summary}`);
}

// --- heatmaps ------------------------------------------------------------------------------------------------------

function heatmap(box, title, note, table, custom, template, bar, label, ringed = []) {
  const rows = table.length;
  const traces = [{
    type: "heatmap", z: table, customdata: custom, hovertemplate: template, colorscale: "Viridis", zmin: 0, xgap: 1, ygap: 1,
    colorbar: { title: { text: bar, side: "right" }, thickness: 12, outlinewidth: 0, len: 1 },
  }];
  if (ringed.length) {
    traces.push({
      type: "scatter", mode: "markers", x: ringed.map(([, head]) => head), y: ringed.map(([layer]) => layer), hoverinfo: "skip",
      marker: { symbol: "circle-open", color: "#D55E00", size: 14, line: { width: 2 } },
    });
  }
  const axis = { showgrid: false, tickformat: "d", dtick: Math.max(1, Math.ceil(rows / 16)) };
  plot(box, title, note, traces, {
    xaxis: { ...axis, dtick: Math.max(1, Math.ceil(table[0].length / 16)), title: { text: "head", standoff: 6 } },
    yaxis: { ...axis, autorange: "reversed", title: { text: "layer" } },
  }, label, rows > 16 ? Math.min(700, 120 + 12 * rows) : null);
}

function drawHeads() {
  const box = element("heads-plots");
  if (!box) return;
  clear(box);
  for (const map of report.heads) {
    const flat = map.share.flatMap((row, layer) => row.map((value, head) => ({ layer, head, value })));
    flat.sort((one, other) => other.value - one.value);
    const rank = new Map(flat.map((one, index) => [`${one.layer}-${one.head}`, index + 1]));
    const best = flat.slice(0, Math.max(1, Math.round(0.05 * flat.length)));
    const held = best.reduce((sum, one) => sum + one.value, 0);
    const note = [map.model, map.rule && `rule ${map.rule}`, map.n && `${map.n} images`].filter(Boolean).join(" · ");
    heatmap(
      box, map.name, `${note}${note ? " · " : ""}ringed: ${best.length} of ${flat.length} heads hold ${held.toFixed(0)} %`, map.share,
      map.share.map((row, layer) => row.map((_, head) => rank.get(`${layer}-${head}`))),
      "layer %{y}, query head %{x}<br>%{z:.2f} % of the score<br>rank %{customdata}<extra></extra>", "share (%)",
      `Head scores of ${map.name}: the best is layer ${flat[0].layer}, head ${flat[0].head} with ${flat[0].value} %`,
      best.map((one) => [one.layer, one.head]),
    );
  }
}

let allocations = null; // parsed when the section is first seen

function drawAllocation() {
  const box = element("allocation-plots");
  if (!box) return;
  allocations ??= read("allocations").map((one) => ({ ...one, cell: cells[one.row] }));
  const known = allocations;
  const groups = unique(known.map((one) => one.cell.group));
  const selects = ["allocation-group", "allocation-line", "allocation-column"].map(element);
  fill(selects[0], groups.map((one) => [String(one), report.groups[one].name]), selects[0].value || String(groups[0]));
  const inGroup = known.filter((one) => String(one.cell.group) === selects[0].value);
  const variants = unique(inGroup.map((one) => one.cell.variant));
  const first = inGroup.find((one) => one.cell.method === "sparsemm") ?? inGroup.find((one) => one.cell.budget !== null) ?? inGroup[0];
  fill(selects[1], variants.map((one) => [one, one]), variants.includes(selects[1].value) ? selects[1].value : first.cell.variant);
  const inLine = inGroup.filter((one) => one.cell.variant === selects[1].value);
  const middle = inLine[Math.floor(inLine.length / 2)].cell.column;
  const columns = inLine.map((one) => one.cell.column);
  fill(selects[2], columns.map((one) => [one, one]), columns.includes(selects[2].value) ? selects[2].value : middle);
  clear(box);
  const one = inLine.find((held) => held.cell.column === selects[2].value);
  if (!one) return;
  const flat = one.kept.flat();
  const nominal = one.nominal ? one.nominal.map((row) => row.map((value) => `<br>by the method's rule ${digits(value, 1)}`)) : one.kept.map((row) => row.map(() => ""));
  heatmap(
    box, one.cell.variant, `${report.groups[one.cell.group].name} · budget ${one.cell.column} · mean ${digits(mean(flat), 1)}, least ${digits(Math.min(...flat), 1)}, most ${digits(Math.max(...flat), 1)}`,
    one.kept, nominal, "layer %{y}, KV head %{x}<br>kept %{z:.1f}%{customdata}<extra></extra>", "entries kept",
    `Entries kept by ${one.cell.variant}, from ${digits(Math.min(...flat), 1)} to ${digits(Math.max(...flat), 1)}`,
  );
}

function drawEfficiency() {
  const box = element("efficiency-plots");
  if (!box) return;
  clear(box);
  const rows = report.efficiency.filter((row) => typeof row.decode_ms === "number");
  const key = (row) => JSON.stringify([row.shape, row.layers, row.layers_of, row.prompt, row.batch_size, row.dtype, row.device]);
  for (const panel of unique(rows.map(key))) {
    const here = rows.filter((row) => key(row) === panel);
    const [row] = here;
    const series = unique(here.map((one) => JSON.stringify([one.method, one.budget])));
    const traces = series.map((name) => {
      const mine = here.filter((one) => JSON.stringify([one.method, one.budget]) === name);
      const lengths = unique(mine.map((one) => one.prompt_tokens)).sort((one, other) => one - other);
      const best = lengths.map((length) => mine.filter((one) => one.prompt_tokens === length).reduce((a, b) => (b.decode_ms < a.decode_ms ? b : a)));
      const style = methodOf.get(mine[0].method);
      const color = themed(mine[0].color);
      return {
        type: "scatter", mode: "lines+markers", x: lengths, y: best.map((one) => one.decode_ms), name: plain(mine[0].label),
        text: best.map((one) => `<b>${plain(one.label)}</b>${one.budget ? `, budget ${one.budget}` : ""}<br>${one.prompt_tokens} tokens, ${plain(one.cache)}<br>${digits(one.decode_ms, 2)} ms [${digits(one.decode_ms_q1, 2)}, ${digits(one.decode_ms_q3, 2)}]<br>${digits(one.ratio, 2)} × FullKV's speed<br>KV ${digits(one.kv_bytes / 1e6, 1)} MB`),
        hovertemplate: "%{text}<extra></extra>", line: { color, width: 1.8, dash: mine[0].method === "fullkv" ? "dash" : "solid" },
        marker: { color, size: 7, symbol: MARKERS[style?.marker] ?? "circle" },
      };
    });
    const lengths = unique(here.map((one) => one.prompt_tokens)).sort((one, other) => one - other);
    const depth = row.layers === row.layers_of ? "" : `, ${row.layers} of ${row.layers_of} layers`;
    plot(box, `${row.shape}${depth}, batch ${row.batch_size}`, `${row.device} · ${row.dtype} · ms a token`, traces, {
      xaxis: { type: "log", tickvals: lengths, ticktext: lengths.map(String), title: { text: "prompt tokens", standoff: 6 } },
      yaxis: { rangemode: "tozero" }, showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 48, r: 12, t: 28, b: 42 },
    }, `Milliseconds a token of ${row.shape} by prompt length`);
  }
}

/** Charts below the first ones are drawn when they come near the window. */
function redrawPlots() {
  for (const [id, draw] of Object.entries({ heads: drawHeads, allocation: drawAllocation, efficiency: drawEfficiency })) {
    if (drawn.get(id)) draw();
  }
}

function drawWhenSeen() {
  const draws = { heads: drawHeads, allocation: drawAllocation, efficiency: drawEfficiency };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting || drawn.get(entry.target.id)) continue;
      drawn.set(entry.target.id, true);
      draws[entry.target.id]();
    }
  }, { rootMargin: "400px" });
  for (const id of Object.keys(draws)) seen.observe(element(id));
  for (const id of ["allocation-group", "allocation-line", "allocation-column"]) element(id)?.addEventListener("change", drawAllocation);
}
