// The list of pairs that runs dispute: right in one, wrong in another.

const STYLES = [...document.querySelectorAll(".verdicts .who .key")].map((key) => key.className);

class Disputes {
  constructor({ names, texts, rows }) {
    Object.assign(this, { names, texts, words: "", show: "all" });
    this.pairs = rows.map(([prompt, chosen, rejected, file, row, pair, numbers], place) => {
      const margins = numbers.map((n) => n[0]);
      const item = { place, prompt, chosen, rejected, file, row, pair, numbers, margins,
        gap: Math.max(...margins) - Math.min(...margins) };
      margins.forEach((margin, i) => { item[`margin${i}`] = margin; });
      return item;
    });
    this.list = new List(byId("rows"), { items: this.pairs, sort: "gap", down: true,
      columns: [...document.querySelectorAll("[data-cell]")].map((th) => ({ wide: th.classList.contains("wide"),
        cell: (p) => this.cell(p.margins[Number(th.dataset.cell)]) })),
      name: (p) => this.nameOf(p), title: (p) => this.title(p), panel: (p) => this.panel(p),
      wanted: (p) => this.isOf(p, this.show) && this.matches(p), find: (words) => this.find(words),
      changed: () => this.keep(), keep: () => this.keep() });
  }

  nameOf(p) { return `pair-${p.place}`; }

  cell(margin) {
    return make("span", { className: margin > 0 ? "" : "minus" }, margin > 0 ? "✓ " : "✕ ", signed(margin));
  }

  title(p) {
    const line = (i) => this.texts[i].trim().split("\n").pop().slice(0, 200);
    const asked = lastTurn(this.texts[p.prompt]).slice(0, 200);
    return [make("span", { className: "lines" }, make("span", { className: "one", dir: "auto" }, asked || "(no prompt)"),
      make("span", { className: "two" }, make("bdi", {}, line(p.chosen) || "(empty)")))];
  }

  find(words) {
    this.words = words.trim();
    this.folded ||= this.texts.map((t) => t.toLowerCase());
    this.hits = this.words ? this.folded.map((t) => t.includes(this.words.toLowerCase())) : null;
    this.count();
  }

  matches(p) {
    return !this.hits || [p.prompt, p.chosen, p.rejected, p.file].some((i) => this.hits[i]);
  }

  isOf(p, show) {
    if (show === "all") return true;
    const [what, i] = show.split("-");
    return p.margins.every((margin, j) => (margin > 0) === ((j === Number(i)) === (what === "right")));
  }

  count() {
    for (const button of document.querySelectorAll("[data-show]")) {
      const n = this.pairs.filter((p) => this.isOf(p, button.dataset.show) && this.matches(p)).length;
      button.querySelector(".count").textContent = n.toLocaleString("en");
    }
  }

  panel(p) {
    const [chosen, rejected] = differences(this.texts[p.chosen], this.texts[p.rejected]);
    const side = (name, pieces) => make("div", { className: name.toLowerCase() }, make("h4", {}, name),
      make("p", { className: "text", dir: "auto" }, ...pieces));
    const head = (name) => Object.assign(make("th", { className: name === "Run" ? "" : "n" }, name), { scope: "col" });
    const rows = p.numbers.map(([margin, chosenReward, rejectedReward, weight], i) => make("tr", {},
      Object.assign(make("th", {}, make("i", { className: STYLES[i] }), make("bdi", {}, this.names[i])), { scope: "row" }),
      ...[signed(chosenReward), signed(rejectedReward), signed(margin), say(weight)].map((v) => make("td", { className: "n" }, v)),
      make("td", { className: "n" }, margin > 0 ? "right" : margin < 0 ? "wrong" : "a tie")));
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...["Run", "Reward, chosen", "rejected", "Margin", "Weight", ""].map(head))),
      make("tbody", {}, ...rows));
    const where = [this.texts[p.file], p.row === null ? "" : `row ${p.row}`].filter(Boolean).join(", ");
    return make("div", { className: "pair" }, make("div", { className: "pairhead" }, make("span", { className: "facts-line" }, make("bdi", {}, where))),
      make("p", { className: "prompt", dir: "auto", tabIndex: 0 }, this.texts[p.prompt] || "(no prompt)"),
      make("div", { className: "sides" }, side("Chosen", chosen), side("Rejected", rejected)),
      make("div", { className: "measures" }, make("div", { className: "all scroll" }, table)));
  }

  keep() {
    const { show, words, list } = this;
    keepView?.({ show, words, sort: list.sort, down: list.down, page: list.page, opened: list.opened && this.nameOf(list.opened) });
  }

  press() {
    for (const b of document.querySelectorAll("[data-show]")) b.setAttribute("aria-pressed", String(b.dataset.show === this.show));
  }
}

async function showNotebook(kept) {
  const book = new Disputes(JSON.parse(await inflate("pairs-data")));
  byId("notebook").hidden = false;
  if (kept) {
    book.show = document.querySelector(`[data-show="${kept.show}"]`) ? kept.show : "all";
    Object.assign(book.list, { sort: kept.sort, down: kept.down });
    byId("find").value = kept.words;
  }
  for (const button of document.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => { book.show = button.dataset.show; book.press(); book.list.select(true); book.keep(); });
  }
  book.find(byId("find").value);
  control(book.list);
  book.press();
  book.list.select();
  const opened = kept && book.pairs.find((p) => book.nameOf(p) === kept.opened);
  if (opened) book.list.reveal(opened);
  else if (kept) book.list.turn(kept.page);
}
