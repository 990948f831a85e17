// What pages with plotly share: its loading, and plots in the page's colours.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

async function loadPlotly() {
  const script = make("script", { textContent: await inflate("plotly") });
  script.nonce = nonce;
  document.head.append(script);
}

// Draws now, says so, and draws again whenever the colours change.
async function drawAlways(draw) {
  await draw();
  document.documentElement.dataset.drawn = "yes";
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

// Axes and layout in the colours of the page.
const plainAxis = () => ({
  gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"),
  automargin: true, fixedrange: false,
});

const plainLayout = () => ({
  margin: { l: 44, r: 12, t: 8, b: 36 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
  font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--soft") },
  hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
  legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 } },
  dragmode: "zoom",
});

const plotConfig = { displaylogo: false, responsive: true, displayModeBar: false, doubleClick: "reset" };
