// The notebook: thousands of pairs, filtered, sorted and searched, one of them opened.

const SIGNS = { corrected: "↗", broken: "↘", stubborn: "✕", right: "✓", undecided: "·" };

class Notebook {
  constructor(content) {
    Object.assign(this, content, { rewardWord: byId("pairs").dataset.reward, asTokens: false, words: "", show: "wrong",
      split: document.querySelector("[data-split]") ? "eval" : "all" });
    const c = this.columns, said = this.said;
    this.apart = Boolean(c.start_chosen); // the policy did not begin as its reference
    const gap = (a, b) => (a === null || b === null ? null : a - b);
    this.pairs = said.prompt.map((prompt, i) => {
      const [pw, pl, rw, rl] = [c.logp_chosen[i], c.logp_rejected[i], c.ref_logp_chosen[i], c.ref_logp_rejected[i]];
      const [sw, sl] = this.apart ? [c.start_chosen[i], c.start_rejected[i]] : [rw, rl]; // before training
      const [where, ...course] = this.courses[i];
      const first = c.first[i];
      const margins = course.map((v) => v * this.unit); // near enough to draw; the last one is known
      if (margins.length && c.margin[i] !== null) margins[margins.length - 1] = c.margin[i];
      return { place: i, prompt, chosen: said.chosen[i], rejected: said.rejected[i], file: c.file[i], row: c.row[i],
        split: this.splits[c.split[i]], pair: c.pair[i], kind: this.kinds[c.kind[i]], margin: c.margin[i], weight: c.weight[i],
        gw: c.reward_chosen[i], gl: c.reward_rejected[i], pw, pl, rw, rl, sw, sl, drift: gap(pw, sw), driftRejected: gap(pl, sl),
        lw: c.length_chosen[i], ll: c.length_rejected[i], longer: gap(c.length_chosen[i], c.length_rejected[i]),
        turns: c.turns[i], change: gap(c.margin[i], first), probability: c.probability[i],
        steps: this.steps[where], course: margins };
    });
    // A tie is not right yet.
    this.wrong = (p) => p.margin !== null && !(p.margin > 0);
    this.byName = new Map(this.pairs.map((p) => [this.nameOf(p), p]));
    this.list = new List(byId("rows"), { items: this.pairs, sort: "weight", down: true, columns: this.cells(),
      name: (p) => this.nameOf(p), title: (p) => this.title(p), panel: (p) => panelOf(p, this),
      wanted: (p) => this.wanted(p), find: (words) => this.find(words), changed: (p) => this.point(p), keep: () => this.keep() });
  }

  nameOf(p) { return `${p.split}-${p.pair}`; }

  text(i) {
    return this.full[i] ? `${this.texts[i]} [${this.full[i].toLocaleString("en")} characters in all]` : this.texts[i];
  }

  cells() {
    const bar = (p) => {
      const box = make("span", {}, say(p.weight), make("span", { className: "weightbar" }, make("i")));
      box.lastChild.firstChild.style.width = `${100 * (p.weight || 0)}%`;
      return box;
    };
    const margin = (p) => make("span", { className: p.margin > 0 ? "" : "minus" }, signed(p.margin));
    const cells = {
      course: (p) => spark(p.steps, p.course, 76, 24),
      margin, weight: bar,
      drift: (p) => signed(p.drift),
      longer: (p) => signed(p.longer),
    };
    return [...document.querySelectorAll("[data-cell]")].map((th) =>
      ({ cell: cells[th.dataset.cell], wide: th.classList.contains("wide") }));
  }

  title(p) {
    const line = (i) => this.texts[i].trim().split("\n").pop().slice(0, 200);
    const asked = lastTurn(this.texts[p.prompt]).slice(0, 200);
    const shown = asked || "(no prompt)";
    const sign = make("span", { className: `sign ${p.kind || (p.margin > 0 ? "right" : "stubborn")}` }, SIGNS[p.kind] || (p.margin > 0 ? "✓" : p.margin === null ? "?" : "✕"));
    sign.setAttribute("aria-label", p.kind || (p.margin > 0 ? "right" : "wrong"));
    sign.setAttribute("role", "img");
    const tags = [];
    if (p.split === "train" && this.splits.length > 1) tags.push(make("span", { className: "tag" }, "training"));
    if (p.probability !== null) tags.push(make("span", { className: "tag red" }, `suspect: ${say(p.probability)}`));
    if (this.tokens[p.place]) tags.push(make("span", { className: "tag" }, "tokens"));
    return [sign, make("span", { className: "lines" },
      make("span", { className: "one", dir: "auto" }, shown),
      make("span", { className: "two" }, ...tags, make("bdi", {}, line(p.chosen) || "(empty)")))];
  }

  find(words) {
    this.words = words.trim();
    const wanted = this.words.toLowerCase();
    // Folded once, at the first search: ten thousand texts take some milliseconds then.
    this.folded ||= this.texts.map((t) => t.toLowerCase());
    this.hits = wanted ? this.folded.map((t) => t.includes(wanted)) : null;
    this.fileHits = wanted ? this.files.map((t) => t.toLowerCase().includes(wanted)) : null;
    this.count();
  }

  matches(p) {
    return (this.split === "all" || p.split === this.split) &&
      (!this.hits || this.hits[p.prompt] || this.hits[p.chosen] || this.hits[p.rejected] || this.fileHits[p.file]);
  }

  isOf(p, show) {
    if (show === "all") return true;
    if (show === "wrong") return this.wrong(p);
    if (show === "suspect") return p.probability !== null;
    if (show === "right" && !p.kind) return p.margin > 0;
    return p.kind === show;
  }

  wanted(p) { return this.isOf(p, this.show) && this.matches(p); }

  // What each filter would show.
  count() {
    for (const button of document.querySelectorAll("[data-show]")) {
      let n = 0;
      for (const p of this.pairs) if (this.isOf(p, button.dataset.show) && this.matches(p)) n++;
      button.querySelector(".count").textContent = n.toLocaleString("en");
    }
  }

  // The address names the opened pair, so it can be sent to someone.
  point(p) {
    const hash = p ? `#pair-${this.nameOf(p)}` : location.pathname + location.search;
    try { history.replaceState(null, "", hash); } catch { /* a page without an address of its own */ }
    this.keep();
  }

  keep() { keepView?.(this.view()); }

  view() {
    const { show, split, words, asTokens, list } = this;
    return { show, split, words, asTokens, sort: list.sort, down: list.down, page: list.page,
      opened: list.opened && this.nameOf(list.opened) };
  }

  step(p, by) {
    const other = this.list.beside(p, by);
    if (!other) return;
    this.list.reveal(other);
    const row = this.list.rows.find((r) => r.item === other);
    this.list.focus(this.list.rows.indexOf(row));
    row.line.scrollIntoView({ block: "start", behavior: "instant" });
  }

  // Opens the pair of a name, whatever is filtered; says whether there is one.
  go(name, scroll = true) {
    const p = this.byName.get(name);
    if (!p) return false;
    if (!this.wanted(p)) {
      if (!this.matches(p)) byId("find").value = "";
      this.find(byId("find").value);
      this.filterFor(p);
      this.list.select();
      this.press();
    }
    this.list.reveal(p);
    if (scroll) byId(`row-${name}`).scrollIntoView({ behavior: "instant" });
    return true;
  }

  // The filters that show a pair: its own data, and of what it is the first that there is.
  filterFor(p) {
    const has = (key, value) => document.querySelector(`[data-${key}="${value}"]`);
    if (this.split !== "all" && this.split !== p.split) this.split = has("split", p.split) ? p.split : "all";
    if (this.isOf(p, this.show)) return;
    const shows = [p.kind, "wrong", "suspect", "right"].filter((show) => show && has("show", show));
    this.show = shows.find((show) => this.isOf(p, show)) || "all";
  }

  press() {
    for (const key of ["show", "split"]) {
      for (const b of document.querySelectorAll(`[data-${key}]`)) b.setAttribute("aria-pressed", String(b.dataset[key] === this[key]));
    }
    this.pressSort?.();
  }
}

async function showNotebook(kept) {
  const book = new Notebook(JSON.parse(await inflate("pairs-data")));
  byId("notebook").hidden = false;
  if (!book.pairs.some((p) => book.wrong(p))) book.show = "all";
  if (kept) {
    book.asTokens = kept.asTokens;
    for (const key of ["show", "split"]) { // filters come and go while the run trains
      if (document.querySelector(`[data-${key}="${kept[key]}"]`)) book[key] = kept[key];
    }
    Object.assign(book.list, { sort: kept.sort, down: kept.down });
    byId("find").value = kept.words;
  }
  for (const key of ["show", "split"]) {
    for (const button of document.querySelectorAll(`[data-${key}]`)) {
      button.addEventListener("click", () => {
        book[key] = button.dataset[key];
        if (book.show === "suspect") {
          Object.assign(book.list, { sort: "probability", down: false });
          book.split = "all";
        }
        book.press();
        book.count();
        book.list.select(true);
        book.keep();
      });
    }
  }
  book.find(byId("find").value);
  book.pressSort = control(book.list);
  book.press();
  book.list.select();
  const named = () => (location.hash.startsWith("#pair-") ? decodeURIComponent(location.hash.slice(6)) : "");
  const opened = kept && book.byName.get(kept.opened);
  if (opened && book.wanted(opened)) book.go(kept.opened, false);
  else if (kept) {
    if (kept.opened) book.point(null);
    book.list.turn(kept.page);
  }
  else if (named()) book.go(named());
  addEventListener("hashchange", () => { if (named()) book.go(named()); });
  return book;
}
