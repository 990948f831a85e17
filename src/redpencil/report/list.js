// A long list, a page at a time: filtered and sorted in one array, walked by arrow keys, each row
// opening a panel under it. Only the rows of the page exist in the document.

class List {
  // options: columns [{key, name, cell(item), wide}], title(item) -> nodes, panel(item) -> node,
  // name(item) -> id of the row, wanted(item) -> boolean, sort, down
  constructor(body, options) {
    Object.assign(this, { body, size: 25, page: 0, opened: null, folded: null }, options);
    this.shown = [];
    body.addEventListener("keydown", (event) => this.key(event));
  }

  // `keep`: stay on the page with the opened row, where it is still shown.
  select(keep = false) {
    const key = this.sort, sign = this.down ? -1 : 1;
    const order = (a, b) => a[key] === b[key] ? a.place - b.place
      : a[key] === null ? 1 : b[key] === null ? -1 // what is not known goes last either way
        : sign * (a[key] < b[key] ? -1 : 1);
    this.shown = this.items.filter((item) => this.wanted(item)).sort(order);
    const at = keep && this.opened ? this.shown.indexOf(this.opened) : -1;
    if (at < 0) this.opened = null;
    this.page = at < 0 ? 0 : Math.floor(at / this.size);
    this.render();
  }

  render() {
    const begin = this.page * this.size;
    const slice = this.shown.slice(begin, begin + this.size);
    this.rows = slice.map((item) => this.row(item));
    this.body.replaceChildren(...this.rows.map((r) => r.line));
    if (this.rows.length) this.rows[0].button.tabIndex = 0;
    const open = this.rows.find((r) => r.item === this.opened);
    if (open) this.unfold(open);
    const total = this.shown.length;
    byId("found").textContent = counted(total, "pair");
    byId("where").textContent = slice.length
      ? `${say(begin + 1)} to ${say(begin + slice.length)} of ${say(total)}` : "";
    byId("empty").hidden = total > 0;
    byId("previous").disabled = this.page === 0;
    byId("next").disabled = begin + this.size >= total;
    byId("pager").hidden = total <= this.size;
    for (const heading of this.body.parentElement.querySelectorAll("th[data-key]")) {
      if (heading.dataset.key !== this.sort) heading.removeAttribute("aria-sort");
      else heading.setAttribute("aria-sort", this.down ? "descending" : "ascending");
    }
  }

  row(item) {
    const button = make("button", { type: "button", className: "open", tabIndex: -1 }, ...this.title(item));
    button.setAttribute("aria-expanded", "false");
    const line = make("tr", { id: `row-${this.name(item)}` }, make("td", { className: "what" }, button),
      ...this.columns.map((c) => make("td", { className: `n${c.wide ? " wide" : ""}` }, c.cell(item))));
    const made = { item, line, button, panel: null };
    line.addEventListener("click", (event) => {
      if (event.target.closest("a")) return;
      this.toggle(made);
    });
    return made;
  }

  toggle(row) {
    const was = this.opened;
    this.close();
    if (was === row.item) return;
    this.unfold(row);
    this.opened = row.item;
    this.changed?.(row.item);
  }

  unfold(row) {
    // A cell that spans hidden columns would make them take room again.
    const columns = [...this.body.parentElement.querySelectorAll("thead th")].filter((th) => th.offsetParent).length;
    const id = `panel-${this.name(row.item)}`;
    row.panel = make("tr", { className: "detail", id },
      make("td", { colSpan: columns || 1 }, this.panel(row.item)));
    row.line.after(row.panel);
    row.panel.querySelectorAll(".prompt").forEach(showEnd);
    row.line.classList.add("opened");
    row.button.setAttribute("aria-expanded", "true");
    row.button.setAttribute("aria-controls", id);
  }

  close() {
    if (!this.opened) return;
    const row = this.rows.find((r) => r.panel);
    if (row) {
      row.panel.remove();
      row.panel = null;
      row.line.classList.remove("opened");
      row.button.setAttribute("aria-expanded", "false");
      row.button.removeAttribute("aria-controls");
    }
    this.opened = null;
    this.changed?.(null);
  }

  // Shows the row of an item that is among the shown ones, opened, and says whether it is.
  reveal(item) {
    const at = this.shown.indexOf(item);
    if (at < 0) return false;
    this.page = Math.floor(at / this.size);
    this.opened = item;
    this.render();
    this.changed?.(item);
    return true;
  }

  // The item before or after one, in the order shown; null at the ends.
  beside(item, by) {
    return this.shown[this.shown.indexOf(item) + by] || null;
  }

  turn(by) {
    const last = Math.max(0, Math.ceil(this.shown.length / this.size) - 1);
    const page = Math.min(last, Math.max(0, this.page + by));
    if (page === this.page) return false;
    this.page = page;
    this.opened = null;
    this.changed?.(null);
    this.render();
    return true;
  }

  focus(at) {
    const row = this.rows[at];
    for (const r of this.rows) r.button.tabIndex = r === row ? 0 : -1;
    row.button.focus();
    row.line.scrollIntoView({ block: "nearest", behavior: "instant" });
  }

  key(event) {
    const row = this.rows.find((r) => r.line.contains(event.target) || r.panel?.contains(event.target));
    if (!row || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape" && row.panel) {
      this.close();
      this.focus(this.rows.indexOf(row));
    } else if (event.target === row.button && this.walk(event.key, this.rows.indexOf(row))) {
      event.preventDefault();
    }
  }

  // Arrow keys go on over the ends of a page.
  walk(key, at) {
    const last = this.rows.length - 1;
    if (key === "ArrowDown" && at < last) this.focus(at + 1);
    else if (key === "ArrowUp" && at > 0) this.focus(at - 1);
    else if (key === "ArrowDown" || key === "PageDown") { if (this.turn(1)) this.focus(0); }
    else if (key === "ArrowUp" || key === "PageUp") { if (this.turn(-1)) this.focus(this.rows.length - 1); }
    else if (key === "Home") this.focus(0);
    else if (key === "End") this.focus(last);
    else return false;
    return true;
  }
}

// The controls around a list: sorting by heading or menu, paging, searching.
function control(list) {
  const menu = byId("sort"), way = byId("way");
  const press = () => {
    menu.value = list.sort;
    way.textContent = list.down ? "↓" : "↑";
    way.setAttribute("aria-label", list.down ? "Highest first; turn round" : "Lowest first; turn round");
  };
  const sort = (key, down) => { list.sort = key; list.down = down; press(); list.select(true); list.keep?.(); };
  for (const heading of document.querySelectorAll("th[data-key]")) {
    const key = heading.dataset.key;
    heading.querySelector("button").addEventListener("click", () => sort(key, list.sort === key ? !list.down : true));
  }
  menu.addEventListener("change", () => sort(menu.value, menu.value !== "place"));
  way.addEventListener("click", () => sort(list.sort, !list.down));
  let waiting = 0;
  byId("find").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { list.find(event.target.value); list.select(true); list.keep?.(); }, 120);
  });
  byId("find").addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" && list.rows.length) { event.preventDefault(); list.focus(0); }
  });
  const turn = (by) => { list.turn(by); list.keep?.(); byId("tools").scrollIntoView(); };
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  press();
  return press;
}
