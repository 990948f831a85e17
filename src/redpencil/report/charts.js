// Reading the charts: the values under the pointer, or under the arrow keys.

function nearest(sorted, x) {
  let low = 0, high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < x) low = middle; else high = middle;
  }
  return Math.abs(sorted[low] - x) <= Math.abs(sorted[high] - x) ? low : high;
}

class Reader {
  constructor(chart, figure) {
    this.chart = chart;
    this.figure = figure;
    this.plot = chart.querySelector(".plot");
    this.series = figure.series || [{ label: "", x: figure.x, y: figure.y }];
    const all = new Set(this.series.flatMap((s) => s.x));
    this.stops = [...all].sort((a, b) => a - b);
    this.rule = make("span", { className: "hair", hidden: true });
    this.note = make("div", { className: "readout", hidden: true });
    this.plot.append(this.rule, this.note);
    chart.addEventListener("pointermove", (e) => this.point(e));
    chart.addEventListener("pointerdown", (e) => this.point(e));
    chart.addEventListener("pointerleave", () => this.hide());
    chart.addEventListener("blur", () => this.hide());
    chart.addEventListener("keydown", (e) => this.key(e));
  }

  point(event) {
    const box = this.plot.getBoundingClientRect();
    const [x0, x1] = this.figure.range;
    const x = x0 + (x1 - x0) * (event.clientX - box.left) / box.width;
    this.show(nearest(this.stops, x));
  }

  key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") this.hide();
    if (by === undefined) return;
    event.preventDefault();
    const from = this.at === undefined ? (by > 0 ? -1 : this.stops.length) : this.at;
    this.show(Math.min(this.stops.length - 1, Math.max(0, from + by)));
    byId("spoken").textContent = this.note.innerText.replaceAll("\n", ", ");
  }

  show(at) {
    this.at = at;
    const x = this.stops[at];
    const [x0, x1] = this.figure.range;
    const place = 100 * (x - x0) / (x1 - x0);
    const rows = [];
    for (const s of this.series) {
      const i = nearest(s.x, x);
      if (Math.abs(s.x[i] - x) > (x1 - x0) / 40 && s.x[i] !== x) continue;
      const key = s.style ? make("i", { className: `key ${s.style}` }) : "";
      rows.push(make("span", {}, key, s.label ? `${s.label} ` : "", make("b", {}, say(s.y[i]))));
    }
    const unit = this.figure.axis;
    this.note.replaceChildren(make("span", { className: "at" }, `${unit} ${say(x)}`), ...rows);
    this.rule.style.left = `${place}%`;
    this.note.style.left = `${place}%`;
    this.note.classList.toggle("leftward", place > 55);
    this.rule.hidden = this.note.hidden = false;
  }

  hide() {
    this.rule.hidden = this.note.hidden = true;
    this.at = undefined;
  }
}

function readCharts() {
  const figures = new Map(JSON.parse(byId("figures").textContent).map((f) => [f.id, f]));
  for (const chart of document.querySelectorAll(".chart")) {
    new Reader(chart, figures.get(chart.dataset.figure));
  }
}
