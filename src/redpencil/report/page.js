// The page of a run: draws the figures, and shows the pairs a page at a time.

// ---- figures ---------------------------------------------------------------

function curveTraces(figure) {
  const two = figure.series.some((s) => s.side === "rejected");
  const traces = [];
  for (const s of figure.series) {
    // Where chosen and rejected are drawn, colour tells them apart; else training from held out.
    const red = two ? s.side === "chosen" : s.held_out || figure.series.length === 1;
    const tint = colour(red ? "--red" : "--grey");
    const common = { x: s.x, name: s.label, line: { color: tint } };
    if (s.smooth) {
      traces.push({ ...common, y: s.y, mode: "lines", opacity: 0.25, showlegend: false,
        hoverinfo: "skip", line: { color: tint, width: 1 } });
    }
    traces.push({ ...common, y: s.smooth || s.y, mode: s.held_out ? "lines+markers" : "lines",
      marker: { color: tint, size: 6 },
      line: { color: tint, width: s.held_out ? 2 : 1.5, dash: two && !s.held_out ? "dot" : "solid" } });
  }
  return traces;
}

function histogramTraces(figure) {
  return figure.series.map((s) => ({
    type: "bar", x: figure.centres, y: s.counts, width: figure.width, name: s.label,
    opacity: s.label === "before" ? 0.55 : 0.75,
    marker: { color: s.label === "before" ? colour("--grey") : colour("--red"), line: { width: 0 } },
  }));
}

function pointTraces(figure) {
  const largest = figure.size ? Math.max(...figure.size) : 1;
  const size = figure.size ? figure.size.map((n) => 6 + 16 * Math.sqrt(n / largest)) : 5;
  return [{ type: "scatter", mode: "markers", x: figure.x, y: figure.y, text: figure.size, name: "",
    hovertemplate: figure.size ? "%{x:.2f}: %{y:.2f}, %{text} pairs" : "%{x} tokens: %{y:.2f}",
    marker: { color: colour("--red"), size, opacity: figure.size ? 0.85 : 0.35, line: { width: 0 } } }];
}

const TRACES = { curve: curveTraces, histogram: histogramTraces, points: pointTraces };

function ruleOf(figure) {
  if (figure.kind === "histogram") return { x0: 0, x1: 0, y0: 0, y1: 1, yref: "paper" };
  if (figure.diagonal) {
    const [from, to] = figure.diagonal;
    return { x0: from, y0: from, x1: to, y1: to };
  }
  return figure.line && { x0: 0, x1: 1, xref: "paper", y0: figure.line.value, y1: figure.line.value };
}

function titlesOf(figure) {
  if (figure.kind === "points") return figure.axes;
  return figure.kind === "histogram" ? [figure.unit, "pairs"] : ["step", ""];
}

function draw(div, figure) {
  const axis = plainAxis();
  const rule = ruleOf(figure);
  const [across, up] = titlesOf(figure);
  const layout = {
    ...plainLayout(),
    xaxis: { ...axis, title: { text: across, standoff: 6 } },
    yaxis: { ...axis, title: { text: up }, exponentformat: "e",
      rangemode: ["learning_rate", "grad_norm", "kl"].includes(figure.id) ? "tozero" : "normal" },
    barmode: "overlay", bargap: 0, hovermode: { curve: "x unified", histogram: "x", points: "closest" }[figure.kind],
    showlegend: (figure.series || []).length > 1,
    shapes: rule ? [{ type: "line", ...rule, line: { color: colour("--soft"), width: 1, dash: "dash" } }] : [],
    annotations: figure.line ? [{ text: figure.line.label, x: 1, xref: "paper", xanchor: "right",
      y: figure.line.value, yanchor: "bottom", showarrow: false, font: { size: 11 } }] : [],
  };
  return Plotly.react(div, TRACES[figure.kind](figure), layout, plotConfig);
}

async function showFigures() {
  const figures = new Map(JSON.parse(byId("figures").textContent).map((f) => [f.id, f]));
  await loadPlotly();
  byId("charts").hidden = false;
  byId("numbers").open = false;
  await drawAlways(async () => {
    for (const div of document.querySelectorAll(".chart")) {
      await draw(div, figures.get(div.dataset.figure));
    }
  });
}

// ---- pairs -----------------------------------------------------------------

const PAGE = 25;
const DRIFT = document.querySelector('[data-sort="drift"]') !== null; // a reward model has none
const LONGEST_DIFF = 1500; // words a side: more would freeze the page

class Notebook {
  constructor({ texts, full, rows }) {
    this.texts = texts;
    this.full = full;
    this.pairs = rows.map((r) => {
      const [prompt, chosen, rejected, margin, weight, pw, pl, rw, rl, lw, ll, file, row] = r;
      const known = (a, b) => (a === null || b === null ? null : a - b);
      return { prompt, chosen, rejected, margin, weight, pw, pl, rw, rl, lw, ll, row, file,
        drift: known(pw, rw), driftRejected: known(pl, rl), longer: known(lw, ll), where: row };
    });
    this.show = "wrong";
    this.sort = "weight";
    this.down = true;
    this.words = "";
    this.page = 0;
  }

  select() {
    const folded = this.words && this.texts.map((t) => t.toLowerCase().includes(this.words));
    const wanted = (p) =>
      (this.show === "all" || (p.margin !== null && p.margin > 0) === (this.show === "right")) &&
      (!folded || folded[p.prompt] || folded[p.chosen] || folded[p.rejected] || folded[p.file]);
    const key = this.sort;
    const sign = this.down ? -1 : 1;
    const order = (a, b) => a[key] === b[key] ? 0 : a[key] === null ? 1 : b[key] === null ? -1
      : sign * (a[key] < b[key] ? -1 : 1); // what is not known goes last either way
    this.shown = this.pairs.filter(wanted).sort(order);
    this.page = 0;
    this.render();
  }

  render() {
    const begin = this.page * PAGE;
    const slice = this.shown.slice(begin, begin + PAGE);
    byId("rows").replaceChildren(...slice.map((p) => this.row(p)));
    const total = this.shown.length.toLocaleString("en");
    byId("found").textContent = `${total} ${this.shown.length === 1 ? "pair" : "pairs"}`;
    byId("where").textContent = slice.length ? `${begin + 1} to ${begin + slice.length} of ${total}` : "none";
    byId("previous").disabled = this.page === 0;
    byId("next").disabled = begin + PAGE >= this.shown.length;
    for (const button of document.querySelectorAll("[data-sort]")) {
      const heading = button.parentElement;
      if (button.dataset.sort !== this.sort) heading.removeAttribute("aria-sort");
      else heading.setAttribute("aria-sort", this.down ? "descending" : "ascending");
    }
  }

  row(p) {
    const title = this.texts[p.prompt].trim().split("\n").pop() || this.texts[p.chosen].trim() || "(no text kept)";
    const open = make("button", { type: "button", className: "open", dir: "auto" }, title.slice(0, 160));
    open.setAttribute("aria-expanded", "false");
    const bar = make("span", { className: "weightbar" }, make("i"));
    bar.firstChild.style.width = `${100 * (p.weight || 0)}%`;
    const tr = make("tr", { className: p.margin > 0 ? "right" : "wrong" },
      make("td", { className: "what" }, open),
      make("td", { className: "n margin" }, say(p.margin)),
      make("td", { className: "n" }, say(p.weight), bar),
      ...(DRIFT ? [make("td", { className: "n wide" }, p.drift === null ? "–" : `${say(p.drift)} nats`)] : []),
      make("td", { className: "n wide" }, say(p.longer)));
    let detail = null;
    open.addEventListener("click", () => {
      if (detail) { detail.remove(); detail = null; } else { detail = this.detail(p); tr.after(detail); }
      open.setAttribute("aria-expanded", String(detail !== null));
    });
    return tr;
  }

  text(i) {
    return this.full[i] ? `${this.texts[i]} [${this.full[i].toLocaleString("en")} characters in all]` : this.texts[i];
  }

  detail(p) {
    const [chosen, rejected] = differences(this.text(p.chosen), this.text(p.rejected));
    const side = (name, tokens, pieces) => make("div", { className: name.toLowerCase() },
      make("h4", {}, name, make("span", { className: "score" }, tokens === null ? "" : `${tokens} tokens`)),
      make("p", { className: "text", dir: "auto" }, ...pieces));
    const moved = (name, now, was) => now === null || was === null ? ""
      : `${name} log-probability ${say(was)} → ${say(now)} nats. `;
    const where = this.texts[p.file] ? `${this.texts[p.file]}${p.row === null ? "" : `, row ${p.row}`}` : "";
    // A cell that spans hidden columns would make them take room again.
    const columns = [...document.querySelectorAll(".pairs thead th")].filter((th) => th.offsetParent).length;
    const cell = make("td", { colSpan: columns },
      make("p", { className: "prompt", dir: "auto" }, this.text(p.prompt)),
      make("div", { className: "sides" }, side("Chosen", p.lw, chosen), side("Rejected", p.ll, rejected)),
      make("p", { className: "measures" }, moved("Chosen", p.pw, p.rw), moved("Rejected", p.pl, p.rl), where));
    return make("tr", { className: "detail" }, cell);
  }
}

function say(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = Number.isInteger(value) ? String(value)
    : size !== 0 && size < 0.001 ? value.toExponential(1)
    : value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
  return text.replace(/^-/, "−");
}

// Words of a text, with the spaces after them; scripts without spaces by the browser's dictionary.
function words(text) {
  if (typeof Intl.Segmenter === "function") {
    return Array.from(new Intl.Segmenter(undefined, { granularity: "word" }).segment(text), (s) => s.segment);
  }
  return text.match(/\s+|[^\s]+/gu) || [];
}

// Both texts as nodes, what the other one lacks in <mark> (longest common subsequence of words).
function differences(left, right) {
  const a = words(left), b = words(right);
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < Math.min(a.length, b.length) - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const x = a.slice(start, a.length - end), y = b.slice(start, b.length - end);
  if (x.length > LONGEST_DIFF || y.length > LONGEST_DIFF) return [[left], [right]];
  const width = y.length + 1;
  const table = new Uint16Array((x.length + 1) * width);
  for (let i = x.length - 1; i >= 0; i--) {
    for (let j = y.length - 1; j >= 0; j--) {
      table[i * width + j] = x[i] === y[j] ? table[(i + 1) * width + j + 1] + 1
        : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
    }
  }
  const keptX = new Array(x.length).fill(false), keptY = new Array(y.length).fill(false);
  for (let i = 0, j = 0; i < x.length && j < y.length;) {
    if (x[i] === y[j]) { keptX[i++] = true; keptY[j++] = true; }
    else if (table[(i + 1) * width + j] >= table[i * width + j + 1]) i++;
    else j++;
  }
  const nodes = (all, middle, kept) => {
    const same = (i) => i < start || i >= all.length - end || kept[i - start];
    const pieces = [];
    for (let i = 0; i < all.length;) {
      const first = i, common = same(i);
      while (i < all.length && (same(i) === common || (!common && /^\s+$/u.test(all[i]) && i + 1 < all.length && !same(i + 1)))) i++;
      const piece = all.slice(first, i).join("");
      pieces.push(common ? piece : make("mark", {}, piece));
    }
    return pieces;
  };
  return [nodes(a, x, keptX), nodes(b, y, keptY)];
}

async function showPairs() {
  const notebook = new Notebook(JSON.parse(await inflate("pairs-data")));
  byId("notebook").hidden = false;
  if (!notebook.pairs.some((p) => !(p.margin > 0))) notebook.show = "all";
  const choices = document.querySelectorAll("[data-show]");
  const press = () => choices.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.show === notebook.show)));
  for (const button of choices) {
    button.addEventListener("click", () => { notebook.show = button.dataset.show; press(); notebook.select(); });
  }
  for (const button of document.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      notebook.down = notebook.sort === button.dataset.sort ? !notebook.down : button.dataset.sort !== "where";
      notebook.sort = button.dataset.sort;
      notebook.select();
    });
  }
  let waiting = 0;
  byId("find").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { notebook.words = event.target.value.trim().toLowerCase(); notebook.select(); }, 120);
  });
  const turn = (by) => { notebook.page += by; notebook.render(); byId("pairs").scrollIntoView(); };
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  press();
  notebook.select();
}

if (byId("pairs-data")) showPairs();
if (byId("figures")) requestAnimationFrame(() => setTimeout(showFigures));
