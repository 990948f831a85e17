// A watched page loads itself again when its run's files changed, and comes back as it was left.

const KEPT = "redpencil-view";
let bookView = null;

function keepWatched(view) { bookView = view; }

function takeWatched() {
  const text = sessionStorage.getItem(KEPT);
  sessionStorage.removeItem(KEPT);
  return text ? JSON.parse(text) : null;
}

// Where on the page the reader is: a section, and how far down in it. What is above may grow.
function placeOf() {
  const sections = [...document.querySelectorAll("section[id], tr.opened")];
  const passed = sections.filter((s) => s.getBoundingClientRect().top <= 80);
  const section = passed.at(-1);
  return section && scrollY > 0 ? { id: section.id, below: -section.getBoundingClientRect().top } : { top: scrollY };
}

function stateOf() {
  const field = document.activeElement;
  return {
    book: bookView, place: placeOf(), focus: field.id || field.closest?.("tr")?.id || "",
    caret: field.id === "find" ? [field.selectionStart, field.selectionEnd] : null,
    folds: [...document.querySelectorAll("details[id]")].map((d) => [d.id, d.open]),
    typed: byId("find")?.value,
  };
}

function comeBack(kept) {
  for (const [id, open] of kept.folds) if (byId(id)) byId(id).open = open;
  const field = byId(kept.focus);
  const button = field?.matches("tr") ? field.querySelector(".open") : field;
  button?.focus({ preventScroll: true });
  if (kept.caret) button?.setSelectionRange(...kept.caret);
  const section = kept.place.id && byId(kept.place.id);
  const top = section ? scrollY + section.getBoundingClientRect().top + kept.place.below : kept.place.top || 0;
  scrollTo({ top, behavior: "instant" });
}

// The last key or click; nothing is taken away under the reader's hands.
let touched = -Infinity;
for (const name of ["keydown", "input", "pointerdown"]) addEventListener(name, () => { touched = performance.now(); });

const busy = () => performance.now() - touched < 1500 || !getSelection().isCollapsed || document.hidden;

function watch(kept) {
  history.scrollRestoration = "manual";
  const [address, version] = document.documentElement.dataset.refresh.split("?");
  const strip = document.querySelector(".progress");
  if (kept) comeBack(kept);
  const ask = async () => {
    try {
      const answer = await fetch(address, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      const now = await answer.text();
      strip?.classList.remove("away");
      if (byId("heard")) byId("heard").textContent = "refreshes by itself";
      if (now !== version && !busy()) {
        sessionStorage.setItem(KEPT, JSON.stringify(stateOf()));
        location.reload();
        return;
      }
    } catch {
      strip?.classList.add("away");
      if (byId("heard")) byId("heard").textContent = "nobody answers any more: this page stands still";
    }
    setTimeout(ask, 1500);
  };
  setTimeout(ask, 1500);
}
