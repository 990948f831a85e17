// The frontier's page: one plot of true reward against KL.

const tintOf = (i) => colour(`--m${i}`);
const number = (value, digits = 2) =>
  value === null ? "–" : value.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "−");

function optimumTraces(optimum) {
  const traces = [];
  const band = (sign) => optimum.map((o) => o.reward + sign * 2 * o.stderr);
  const x = optimum.map((o) => o.kl);
  traces.push({ x: [...x, ...[...x].reverse()], y: [...band(1), ...band(-1).reverse()], fill: "toself",
    fillcolor: colour("--ink"), opacity: 0.12, line: { width: 0 }, mode: "lines", hoverinfo: "skip",
    showlegend: false, legendgroup: "optimum" });
  const text = optimum.map((o) => `at most ${number(o.reward)} ± ${number(o.stderr)}<br>KL ${number(o.kl)}<br>`
    + `temperature ${number(o.beta)}${o.trusted ? "" : "<br>too few effective samples to be trusted"}`);
  for (const trusted of [true, false]) {
    // The dotted part begins where the solid one ends.
    const first = optimum.findIndex((o) => !o.trusted);
    const cut = first < 0 ? optimum.length : first;
    const part = (all) => (trusted ? all.slice(0, cut) : all.slice(Math.max(cut - 1, 0)));
    if (part(x).length < 2) continue;
    traces.push({ x: part(x), y: part(optimum.map((o) => o.reward)), text: part(text), mode: "lines",
      name: "Optimum", legendgroup: "optimum", showlegend: trusted || cut < 2,
      hovertemplate: "<b>Optimum</b><br>%{text}<extra></extra>",
      line: { color: colour("--ink"), width: 3, dash: trusted ? "solid" : "dot" } });
  }
  return traces;
}

function words(method, dot) {
  const strength = dot.strength === null ? "" : `, ${method.symbol} = ${dot.strength}`;
  const where = dot.step === null || dot.step === undefined ? "" : `, step ${dot.step}`;
  const share = dot.fraction === null ? "" : `<br>${number(100 * dot.fraction, 0)} % of the optimum's gain at this KL`;
  const seed = dot.seed === undefined ? "" : `<br>seed ${dot.seed}`;
  return `<b>${method.label}</b>${strength}${where}<br>true reward ${number(dot.reward)} ± ${number(dot.reward_stderr)}`
    + `<br>KL ${number(dot.kl)} ± ${number(dot.kl_stderr)}${share}${seed}`;
}

function methodTraces(content, method, i) {
  const tint = tintOf(i);
  const own = (rows) => rows.filter((r) => r.method === method.name);
  const dots = own(content.points), ends = own(content.means).filter((m) => m.final);
  const group = { legendgroup: method.name, hovertemplate: "%{text}<extra></extra>" };
  return [
    { ...group, x: method.line.map((p) => p[0]), y: method.line.map((p) => p[1]), mode: "lines",
      hoverinfo: "skip", hovertemplate: null, showlegend: false, line: { color: tint, width: 1.5 }, opacity: 0.8 },
    { ...group, x: dots.map((d) => d.kl), y: dots.map((d) => d.reward), mode: "markers", showlegend: false,
      text: dots.map((d) => words(method, d)), marker: { color: tint, size: 4.5, opacity: 0.4, symbol: method.shape } },
    { ...group, x: ends.map((m) => m.kl), y: ends.map((m) => m.reward), mode: "markers", name: method.label,
      text: ends.map((m) => words(method, m)),
      error_x: { type: "data", array: ends.map((m) => m.kl_stderr), color: tint, thickness: 1, width: 0 },
      error_y: { type: "data", array: ends.map((m) => m.reward_stderr), color: tint, thickness: 1, width: 0 },
      marker: { color: tint, size: 10, symbol: method.shape, line: { color: colour("--card"), width: 1 } } },
  ];
}

function drawFrontier(content) {
  const narrow = innerWidth < 740;
  const traces = [...optimumTraces(content.optimum), ...content.methods.flatMap((m, i) => methodTraces(content, m, i))];
  const layout = { ...plainLayout(), hovermode: "closest", margin: { l: 52, r: 12, t: 8, b: 48 },
    xaxis: { ...plainAxis(), title: { text: "KL(π ‖ π_ref), nats a review", standoff: 8 }, range: content.range.kl },
    yaxis: { ...plainAxis(), title: { text: "true reward" }, range: content.range.reward },
    legend: { orientation: "h", x: 0, y: narrow ? -0.18 : 1.02, yanchor: narrow ? "top" : "bottom",
      font: { size: 12, color: colour("--ink") } },
    annotations: [{ x: 0, y: content.reference.reward, text: "π_ref", showarrow: false, xanchor: "left",
      yanchor: "top", xshift: 6, font: { size: 12, color: colour("--soft") } }] };
  traces.push({ x: [0], y: [content.reference.reward], mode: "markers", showlegend: false,
    hovertemplate: `<b>Reference</b><br>true reward ${number(content.reference.reward)}<extra></extra>`,
    marker: { color: colour("--ink"), size: 9, symbol: "circle" } });
  return Plotly.react(byId("plot"), traces, layout, plotConfig);
}

async function showFrontier() {
  const content = JSON.parse(byId("content").textContent);
  await loadPlotly();
  byId("figure").hidden = false;
  await drawAlways(() => drawFrontier(content));
}

requestAnimationFrame(() => setTimeout(showFrontier));
