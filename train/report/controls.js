// What a reader can change, by pointer and by keyboard, and the start of all.

const SMOOTHING = [0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];  // shares of the steps that are shown
const MANY_POINTS = 300;  // from here on a curve opens smoothed
const PAGE = 10;  // points that Page Up and Page Down move by
const byId = (id) => document.getElementById(id);

function start() {
  const began = performance.now();
  const drawn = JSON.parse(byId("drawn").textContent);
  for (const place of document.querySelectorAll("[data-swatch]")) {
    place.append(swatch(Number(place.dataset.swatch)));
  }
  if (!drawn.charts.length) return;
  const view = { range: [0, 1], smoothing: 0, isLogarithmic: false, cursor: null, hidden: new Set() };
  const moveCursor = (step) => {
    view.cursor = step;
    for (const chart of charts) chart.showCursor();
  };
  const charts = [...document.querySelectorAll("[data-chart]")].map(
    (figure) => new Chart(figure, drawn.charts[figure.dataset.chart], drawn.runs, view, moveCursor));
  const whole = wholeRange(charts);
  view.range = whole;
  const redraw = () => charts.forEach((chart) => chart.draw());
  addControls(view, charts, whole, redraw);
  charts.forEach((chart) => listen(chart, view));
  redraw();
  followWidth(charts);
  document.documentElement.dataset.drawn = (performance.now() - began).toFixed(1);
}

function wholeRange(charts) {
  let first = Infinity, last = -Infinity;
  for (const { points } of charts.flatMap((chart) => chart.curves)) {
    first = Math.min(first, points.x[0]);
    last = Math.max(last, points.x[points.x.length - 1]);
  }
  return first < last ? [first, last] : [Math.max(0, first - 1), first + 1];
}

function addControls(view, charts, whole, redraw) {
  const [smoothing, from, to] = ["smoothing", "from", "to"].map(byId);
  const isLong = charts.some((chart) => chart.curves.some(({ points }) => points.x.length > MANY_POINTS));
  smoothing.value = isLong ? 2 : 0;
  const takeSmoothing = () => {
    const share = SMOOTHING[smoothing.value];
    view.smoothing = share * (view.range[1] - view.range[0]);
    const steps = `${shortNumber(Number(view.smoothing.toPrecision(2)))} steps`;
    byId("smoothed").textContent = share ? `over ${steps}` : "none";
    smoothing.setAttribute("aria-valuetext", share ? `over ${steps}` : "none");
  };
  view.show = (range) => {
    const [first, last] = range.map((step) => Math.round(Math.min(Math.max(step, whole[0]), whole[1])));
    view.range = first < last ? [first, last] : view.range;
    [from.value, to.value] = view.range;
    takeSmoothing();
    redraw();
  };
  view.showAll = () => view.show(whole);
  [from.value, to.value] = whole;
  takeSmoothing();
  smoothing.addEventListener("input", () => (takeSmoothing(), redraw()));
  byId("logarithmic").addEventListener("change", (event) => {
    view.isLogarithmic = event.target.checked;
    redraw();
  });
  for (const field of [from, to]) {
    field.addEventListener("change", () => view.show([Number(from.value), Number(to.value || whole[1])]));
  }
  byId("all-steps").addEventListener("click", view.showAll);
  for (const box of document.querySelectorAll("[data-run]")) {
    box.addEventListener("change", () => {
      view.hidden[box.checked ? "delete" : "add"](Number(box.dataset.run));
      redraw();
    });
  }
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("controls").hidden = false;
}

function listen(chart, view) {
  const { plot, moveCursor } = chart;
  const stepAt = (event) => chart.x.invert(event.clientX - plot.getBoundingClientRect().left - MARGIN.left);
  const follow = (event) => {
    const stops = chart.cursorStops();
    if (stops.length) moveCursor(stops[nearest(stops, stepAt(event))]);
  };
  let dragged = null;
  plot.addEventListener("pointerdown", (event) => {
    dragged = event.pointerType === "mouse" && event.button === 0 ? stepAt(event) : null;
    follow(event);
  });
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerup", (event) => {
    const range = dragged === null ? [0, 0] : [dragged, stepAt(event)].sort((a, b) => a - b);
    dragged = null;
    if (chart.x.at(range[1]) - chart.x.at(range[0]) > 8) view.show(range);
  });
  plot.addEventListener("pointerleave", (event) => {
    dragged = null;
    if (event.pointerType === "mouse" && document.activeElement !== plot) moveCursor(null);
  });
  plot.addEventListener("dblclick", view.showAll);
  plot.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const next = keyedStep(chart, view.cursor, event);
    if (next === undefined) return;
    event.preventDefault();
    moveCursor(next);
  });
}

// Where a key moves the cursor; undefined: it is another key.
function keyedStep(chart, cursor, { key, shiftKey }) {
  const stops = chart.cursorStops(), last = stops.length - 1;
  if (key === "Escape") return null;
  const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: PAGE, PageDown: -PAGE }[key];
  if (last < 0 || !(by || key === "Home" || key === "End")) return undefined;
  if (key === "Home") return stops[0];
  if (key === "End") return stops[last];
  // The first key finds the cursor at the end that it moves away from.
  const place = cursor === null ? (by > 0 ? -1 : last + 1) : nearest(stops, cursor);
  return stops[Math.min(Math.max(place + by * (shiftKey ? PAGE : 1), 0), last)];
}

// Also draws what was in a folded section.
function followWidth(charts) {
  const byPlot = new Map(charts.map((chart) => [chart.plot, chart]));
  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (Math.floor(target.clientWidth) !== byPlot.get(target).width) byPlot.get(target).draw();
    }
  });
  for (const plot of byPlot.keys()) observer.observe(plot);
}

addEventListener("error", ({ message }) => {
  document.documentElement.dataset.error = message;
  const problem = byId("problem");
  if (!problem) return;
  problem.textContent = `The curves could not be drawn: ${message}`;
  problem.hidden = false;
});
start();
