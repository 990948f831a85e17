// Tokens coloured by log π − log π_ref: what the model finds likelier than its reference, and what
// less likely.

// Full colour at `reach` nats either way; the sign also stands in the line under the token.
function tint(nats, reach) {
  const strength = Math.min(1, Math.abs(nats) / reach);
  return { side: nats > 0 ? "up" : nats < 0 ? "down" : "", share: `${Math.round(100 * strength)}%` };
}

const readable = (piece) => piece.replace(/\n/g, "↵\n");

// Both sides of a pair: [pieces, nats, pieces, nats], and how many tokens each has.
function tokenView(sides, lengths, reach) {
  const view = make("div", { className: "tokens" });
  const readout = make("p", { className: "value" }, "Point at a token, or walk with the arrow keys, to read its value.");
  readout.setAttribute("role", "status");
  const columns = ["Chosen", "Rejected"].map((name, i) =>
    tokenSide(name, sides[2 * i], sides[2 * i + 1], lengths[i], reach, readout));
  view.append(make("div", { className: "sides" }, ...columns), legend(reach), readout,
    tokenTable(sides));
  return view;
}

function tokenSide(name, pieces, nats, length, reach, readout) {
  // Tokens that are no whole characters of their own stand together in one piece.
  const unit = pieces.length === length ? "token" : "piece";
  const total = nats.reduce((a, b) => a + b, 0);
  const text = make("p", { className: "text coloured", dir: "auto", tabIndex: 0 });
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", `${name}, tokens by log-ratio; arrow keys read them`);
  const marks = pieces.map((piece, i) => {
    const { side, share } = tint(nats[i], reach);
    // A space before the word stays outside: at a line's end its colour would hang there.
    const inner = piece.trim() ? piece.trimStart() : piece;
    const mark = make("span", { className: `token ${side}` }, readable(inner));
    mark.style.setProperty("--share", share);
    mark.dataset.i = i;
    text.append(piece.slice(0, piece.length - inner.length), mark);
    return mark;
  });
  let at = -1;
  const show = (i) => {
    marks[at]?.classList.remove("here");
    at = i;
    if (i < 0) return;
    marks[i].classList.add("here");
    const piece = make("bdi", {}, `“${pieces[i].replace(/\n/g, "↵")}”`);
    readout.replaceChildren(`${name}, ${unit} ${i + 1} of ${pieces.length}: `, piece, " ",
      make("b", {}, `${signed(nats[i])} nats`));
  };
  text.addEventListener("pointerover", (e) => { if (e.target.dataset.i) show(Number(e.target.dataset.i)); });
  text.addEventListener("pointerleave", () => show(-1));
  text.addEventListener("blur", () => show(-1));
  text.addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: marks.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    if (marks.length) show(Math.min(marks.length - 1, Math.max(0, to)));
  });
  const heading = make("h4", {}, name, make("span", { className: "score" }, `${signed(total)} nats in ${counted(nats.length, unit)}`));
  return make("div", { className: name.toLowerCase() }, heading, text);
}

function legend(reach) {
  const bar = make("span", { className: "ramp" });
  const words = make("span", { className: "ends" }, make("span", {}, `−${say(reach)} nats or less`),
    make("span", {}, "0"), make("span", {}, `+${say(reach)} nats or more`));
  const what = make("p", { className: "small" },
    "log π − log π", make("sub", {}, "ref"), " of each token. ",
    make("span", { className: "token up sample" }, "solid line"), ": likelier than for the reference; ",
    make("span", { className: "token down sample" }, "dotted"), ": less likely.");
  return make("div", { className: "legend-tokens" }, make("div", { className: "rampbox" }, bar, words), what);
}

// The same as a table, for those who do not see the colours.
function tokenTable([chosen, chosenNats, rejected, rejectedNats]) {
  const body = make("tbody");
  for (let i = 0; i < Math.max(chosen.length, rejected.length); i++) {
    const cells = [[chosen, chosenNats], [rejected, rejectedNats]].flatMap(([pieces, nats]) => i < pieces.length
      ? [make("td", {}, make("bdi", {}, pieces[i].replace(/\n/g, "↵"))), make("td", { className: "n" }, signed(nats[i]))]
      : [make("td"), make("td")]);
    body.append(make("tr", {}, ...cells));
  }
  const heads = ["Chosen", "nats", "Rejected", "nats"].map((name, i) => {
    const th = make("th", { className: i % 2 ? "n" : "" }, name);
    th.scope = "col";
    return th;
  });
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body);
  return make("details", { className: "numbers" }, make("summary", {}, "Tokens as a table"),
    make("div", { className: "scroll" }, table));
}
