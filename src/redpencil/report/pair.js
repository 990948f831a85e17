// One pair, opened: both answers side by side, its course over training, and every number.

const LABELS = { eval: "held out", train: "training", data: "data" };

// A margin's course as a small line: above the middle line the pair is ordered correctly.
function spark(steps, values, wide, high) {
  const picture = draw("svg", { viewBox: `0 0 ${wide} ${high}`, width: wide, height: high, class: "spark", role: "img" });
  if (values.length < 2) return picture;
  const words = `margin from ${signed(values[0])} at step ${say(steps[0])} to ${signed(values.at(-1))} at step ${say(steps.at(-1))}`;
  picture.setAttribute("aria-label", words);
  const reach = Math.max(...values.map(Math.abs)) || 1;
  const x = (step) => 3 + (wide - 6) * (step - steps[0]) / (steps.at(-1) - steps[0] || 1);
  const y = (value) => high / 2 - (high / 2 - 3) * value / reach;
  const line = values.map((v, i) => `${x(steps[i]).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
  picture.append(draw("path", { d: `M0,${high / 2}H${wide}`, class: "zero" }),
    draw("polyline", { points: line }),
    draw("circle", { cx: x(steps.at(-1)), cy: y(values.at(-1)), r: 2.5, class: values.at(-1) > 0 ? "good" : "bad" }));
  return picture;
}

function course(steps, values) {
  const box = make("div", { className: "course" });
  const reach = Math.max(...values.map(Math.abs)) || 1;
  const wide = 480, high = 96;
  const picture = spark(steps, values, wide, high);
  picture.setAttribute("preserveAspectRatio", "none");
  picture.querySelector("circle")?.remove();
  for (let i = 0; i < values.length; i++) {
    const x = 3 + (wide - 6) * (steps[i] - steps[0]) / (steps.at(-1) - steps[0] || 1);
    const y = high / 2 - (high / 2 - 3) * values[i] / reach;
    picture.append(draw("path", { d: `M${x.toFixed(1)},${y.toFixed(1)}h0`, class: `dot ${values[i] > 0 ? "good" : values[i] < 0 ? "bad" : "tie"}` }));
  }
  const note = make("span", { className: "note" });
  const rest = `step ${say(steps[0])}: ${signed(values[0])} … step ${say(steps.at(-1))}: ${signed(values.at(-1))}`;
  note.textContent = rest;
  picture.addEventListener("pointermove", (event) => {
    const area = picture.getBoundingClientRect();
    const i = nearest(steps, steps[0] + (steps.at(-1) - steps[0]) * (event.clientX - area.left) / area.width);
    note.textContent = `step ${say(steps[i])}: ${signed(values[i])}`;
  });
  picture.addEventListener("pointerleave", () => { note.textContent = rest; });
  box.append(make("h5", {}, "Margin over the steps"), picture, note);
  return box;
}

// What no column of the table says.
function summed(p) {
  const facts = [["Weight", say(p.weight)]];
  if (p.turns !== null) facts.push(["Margin at the first look", signed(p.margin - p.change)], ["Turned", counted(p.turns, "time")]);
  return make("p", { className: "summed" }, ...facts.map(([name, value]) => make("span", {}, `${name} `, make("b", {}, value))));
}

function numbersOf(p, book) {
  const gap = (a, b) => (a === null || b === null ? null : a - b);
  const rows = [
    [book.rewardWord, p.gw, p.gl, p.margin],
    ["Log-probability now", p.pw, p.pl, gap(p.pw, p.pl)],
    ["before training", p.sw, p.sl, gap(p.sw, p.sl)],
    ["moved by", p.drift, p.driftRejected, gap(p.drift, p.driftRejected)],
    ...(book.apart ? [["of the reference", p.rw, p.rl, gap(p.rw, p.rl)]] : []),
    ["Tokens", p.lw, p.ll, p.longer],
  ].filter((row) => row.slice(1).some((v) => v !== null));
  const head = (name) => Object.assign(make("th", { className: name ? "n" : "" }, name), { scope: "col" });
  const body = rows.map(([name, ...values]) => make("tr", {}, Object.assign(make("th", {}, name), { scope: "row" }),
    ...values.map((v, i) => make("td", { className: "n" }, i === 2 || name === "moved by" ? signed(v) : say(settled(v))))));
  return make("table", {}, make("thead", {}, make("tr", {}, ...["", "Chosen", "Rejected", "Difference"].map(head))),
    make("tbody", {}, ...body));
}

function whereOf(p, book) {
  const file = book.files[p.file];
  const row = p.row === null ? "" : `${file ? ", " : ""}row ${p.row}`;
  return `${file}${row}`;
}

function sidesOf(p, book) {
  const [chosen, rejected] = differences(book.text(p.chosen), book.text(p.rejected));
  const side = (name, tokens, pieces) => make("div", { className: name.toLowerCase() },
    make("h4", {}, name, make("span", { className: "score" }, tokens === null ? "" : counted(tokens, "token"))),
    make("p", { className: "text", dir: "auto" }, ...pieces));
  return make("div", { className: "sides" }, side("Chosen", p.lw, chosen), side("Rejected", p.ll, rejected));
}

// Words and tokens take turns in the same place.
function answers(p, book) {
  const place = make("div", { className: "answers" }, sidesOf(p, book));
  const tokens = book.tokens[p.place];
  if (!tokens) return place;
  const view = () => tokenView([tokens[0].map((i) => book.pieces[i]), tokens[1], tokens[2].map((i) => book.pieces[i]), tokens[3]], [p.lw, p.ll], book.reach);
  const choice = make("div", { className: "choice small" });
  choice.setAttribute("role", "group");
  choice.setAttribute("aria-label", "How the answers are shown");
  const buttons = [["Words that differ", () => sidesOf(p, book)], ["Tokens by log-ratio", view]].map(([name, made], i) => {
    const button = make("button", { type: "button" }, name);
    button.setAttribute("aria-pressed", String((i === 1) === book.asTokens));
    button.addEventListener("click", () => {
      book.asTokens = i === 1;
      buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
      place.replaceChildren(choice, made());
      book.keep();
    });
    return button;
  });
  choice.append(...buttons);
  place.replaceChildren(choice, book.asTokens ? view() : sidesOf(p, book));
  return place;
}

function panelOf(p, book) {
  const facts = [p.split === "data" ? "" : LABELS[p.split], whereOf(p, book)].filter(Boolean).join(" · ");
  const kind = p.kind ? make("span", { className: `kind ${p.kind}` }, p.kind) : "";
  const link = make("a", { href: `#pair-${book.nameOf(p)}`, className: "self" }, "link to this pair");
  const go = (name, by) => {
    const button = make("button", { type: "button", className: "go" }, name);
    button.disabled = !book.list.beside(p, by);
    button.addEventListener("click", () => book.step(p, by));
    return button;
  };
  const head = make("div", { className: "pairhead" }, kind, make("span", { className: "facts-line" }, make("bdi", {}, facts)),
    link, make("span", { className: "gos" }, go("Previous", -1), go("Next", 1)));
  const doubt = p.probability === null ? "" : make("p", { className: "doubt" },
    `This label may be wrong: a model that never saw it gives it a probability of ${say(p.probability)}.`);
  const measures = make("div", { className: "measures" });
  if (p.course.length > 1) measures.append(course(p.steps, p.course));
  if (p.margin !== null) measures.append(make("div", { className: "all" }, numbersOf(p, book), summed(p)));
  return make("div", { className: "pair" }, head, doubt,
    make("p", { className: "prompt", dir: "auto", tabIndex: 0 }, book.text(p.prompt).trim() || "(no prompt)"), answers(p, book), measures);
}
