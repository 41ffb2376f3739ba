// The charts: uPlot on the newest ten minutes, in the colours of the page.

import { $, count, percent, timeOf } from "./dom.js";

const MOST_POINTS = 300;

/** A colour of the page, resolved for the present theme. */
function colour(name) {
  const probe = document.createElement("i");
  probe.className = `c-${name}`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** One chart. series: [{name, colour, width}]; show(value): text of a value. */
class Chart {
  constructor(id, series, show, range) {
    this.element = $(id);
    this.series = series;
    this.show = show;
    this.marks = [];
    const axis = { stroke: () => colour("muted"), grid: { stroke: () => colour("line"), width: 1 }, ticks: { show: false } };
    const font = "11px system-ui, sans-serif";
    this.plot = new uPlot(
      {
        ...this.size(),
        legend: { show: false },
        cursor: { y: false, drag: { x: false } },
        padding: [8, 8, 0, 0],
        scales: { y: { range } },
        axes: [
          { ...axis, font, grid: { show: false }, size: 24, space: 70, incrs: [15, 30, 60, 120, 300], values: (_, at, __, ___, step) => at.map((seconds) => clock(seconds, step)) },
          { ...axis, font, size: 44, space: 36, values: (_, ticks) => ticks.map(show) },
        ],
        series: [{}, ...series.map(({ colour: c, width }) => ({ stroke: () => colour(c), width: width ?? 1.5, points: { show: false } }))],
        hooks: { draw: [(plot) => this.drawMarks(plot)] },
      },
      [[], ...series.map(() => [])],
      this.element,
    );
    this.element.setAttribute("role", "img");
    new ResizeObserver(() => this.plot.setSize(this.size())).observe(this.element);
  }

  size() {
    return { width: this.element.clientWidth, height: this.element.clientHeight };
  }

  draw(times, columns, marks = []) {
    this.marks = marks;
    this.plot.setData([times, ...columns]);
    const newest = this.series.map(({ name }, i) => `${name} ${this.show(columns[i].at(-1))}`);
    this.element.setAttribute("aria-label", `Chart, now: ${newest.join(", ")}`);
  }

  drawMarks({ ctx, bbox, valToPos, scales }) {
    ctx.save();
    ctx.strokeStyle = colour("faint");
    ctx.setLineDash([3, 3]);
    for (const at of this.marks.filter((at) => at > scales.x.min && at < scales.x.max)) {
      const x = Math.round(valToPos(at, "x", true)) + 0.5;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }
}

const clock = (seconds, step) => timeOf(seconds * 1000).slice(0, step < 60 ? 8 : 5);
const fromZero = (_, low, high) => [0, Math.max(high ?? 0, 1) * 1.15];

/** All charts of the page; `add(points, marks)` draws new points, `redraw()` after a new theme. */
export function makeCharts(methods) {
  let points = [];
  const hits = new Chart("chart-hits", methods, (v) => (v == null ? "–" : percent(v)), [0, 1]);
  const clicks = new Chart("chart-clicks", [{ name: "clicks per second", colour: "accent" }], count, fromZero);
  const latency = new Chart(
    "chart-latency",
    [{ name: "p50 ms", colour: "accent" }, { name: "p99 ms", colour: "faint" }],
    count,
    fromZero,
  );
  const lag = new Chart("chart-lag", [{ name: "lag", colour: "accent" }], count, fromZero);

  function add(newer, marks) {
    const last = points.at(-1)?.at ?? 0;
    points = [...points, ...newer.filter(({ at }) => at > last)].slice(-MOST_POINTS);
    const times = points.map(({ at }) => at / 1000);
    const column = (value) => points.map((point) => value(point) ?? null);
    hits.draw(times, methods.map(({ key }) => column(({ hits }) => hits[key])), marks);
    clicks.draw(times, [column((point) => point.clicks)]);
    latency.draw(times, [0, 1].map((i) => column((point) => point.latency?.[i])));
    lag.draw(times, [column((point) => point.lag)]);
  }

  return { add, redraw: () => [hits, clicks, latency, lag].forEach(({ plot }) => plot.redraw()) };
}
