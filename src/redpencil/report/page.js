// The page of a run.

const keepView = typeof keepWatched === "function" ? keepWatched : null;

// On paper everything essential is there, also what is folded on screen.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details[data-print]:not([open])")];
  for (const details of folded) details.open = true;
});
addEventListener("afterprint", () => { for (const details of folded) details.open = false; });

async function start() {
  const kept = typeof takeWatched === "function" ? takeWatched() : null;
  document.documentElement.classList.add("live");
  if (byId("figures")) readCharts();
  if (byId("pairs-data")) await showNotebook(kept?.book);
  for (const prompt of document.querySelectorAll("#samples .prompt")) showEnd(prompt);
  byId("more-samples")?.addEventListener("toggle", (event) => event.target.querySelectorAll(".prompt").forEach(showEnd));
  document.documentElement.dataset.drawn = "yes";
  if (typeof watch === "function") watch(kept);
}

start();
