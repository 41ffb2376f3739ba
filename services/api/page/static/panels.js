// The panels that only show the state.

import { $, count, empty, fill, h, nameOf, percent, timeOf } from "./dom.js";

const QUIET_MS = 10000;

/** The methods that are compared: key in the state, name on the page, colour of its line. */
export const METHODS = [
  { key: "ceiling", name: "possible", colour: "text", width: 1 },
  { key: "popularity", name: "most clicked", colour: "faint" },
  { key: "model", name: "this model", colour: "accent", width: 2.5 },
];

export function showHeadline({ judged, hit_rates: rates }) {
  if (!judged) return;
  const [rate, low, high] = rates.model;
  const interval = h("small", {}, `${percent(low)} to ${percent(high)}, 95 % interval`);
  fill($("hit-rate"), [rate, low, high].map(percent), () => [percent(rate), interval]);
  const others = METHODS.filter(({ key }) => key !== "model" && rates[key])
    .map(({ key, name }) => `${name} ${percent(rates[key][0])}`);
  $("hit-sentence").textContent =
    `${[...others, `${count(judged)} clicks that followed a list, in the last ten minutes`].join(" · ")}`;
  $("methods").hidden = false;
  const shown = METHODS.filter(({ key }) => rates[key]).sort((a, b) => rates[b.key][0] - rates[a.key][0]);
  fill($("methods").tBodies[0], shown.map(({ key }) => [key, percent(rates[key][0])]), () =>
    shown.map(({ key, name }) =>
      h(
        "tr",
        { class: key },
        h("th", { scope: "row" }, name),
        h("td", {}, h("div", { class: "bar", "--share": rates[key][0] }, h("i"))),
        h("td", {}, percent(rates[key][0])),
      ),
    ),
  );
}

export function showStream(state) {
  const now = state.points.at(-1);
  const tiles = [
    ["clicks per second", count(now?.clicks)],
    ["latency p50", count(state.latency?.[0]), "ms"],
    ["latency p99", count(state.latency?.[1]), "ms"],
    ["lag", count(now?.lag), "clicks"],
    ["doubled answers", count(state.doubled)],
    ["dead letters", count(Object.values(state.dead_letters).reduce((a, b) => a + b, 0))],
  ];
  fill($("tiles"), tiles, () =>
    tiles.map(([name, value, unit]) =>
      h("div", {}, h("dt", {}, name), h("dd", {}, value, unit ? h("small", {}, unit) : null)),
    ),
  );
  const last = state.newest.at(-1)?.at;
  const silent = last ? state.now - last : Infinity;
  $("quiet").hidden = silent < QUIET_MS;
  $("quiet").textContent = last
    ? `No click was answered for ${count(silent / 1000)} s: is the shop closed, or no worker running?`
    : "No click has been answered since this page is open. Send one, or start a worker.";
  const rows = state.newest.toReversed();
  fill($("newest"), rows, () =>
    rows.length ? rows.map(newClick) : [empty("none yet")],
  );
}

function newClick({ at, user, item, rank, judged }) {
  const outcome = rank ? `✓ no. ${rank} of the list` : judged ? "not in the list" : "first click";
  return h(
    "li",
    {},
    h("span", {}, `${user} → ${nameOf(item)}`),
    h("span", { class: rank ? "hit" : "muted" }, outcome),
    h("time", { class: "time" }, timeOf(at)),
  );
}

export function showHealth({ anomalies, bots, max_per_minute: most, clicks, dead_letters: dead }) {
  const rows = anomalies.map(({ kind, clicks: n, remedy }) => [kind.replaceAll("_", " "), count(n), remedy]);
  for (const [user, n] of Object.entries(bots)) {
    rows.push([`bot? ${user}`, `${count(n)} in a minute`, `a retraining counts ${most} clicks of a user and minute`]);
  }
  fill($("health"), [rows, rows.length ? 0 : clicks], () =>
    rows.length
      ? rows.map(([what, n, remedy]) =>
          h("li", {}, h("span", {}, what), h("span", {}, n), h("span", { class: "detail" }, remedy)),
        )
      : [empty(`nothing unusual about ${count(clicks)} clicks`)],
  );
  const letters = Object.entries(dead).sort();
  fill($("dead-letters"), letters, () =>
    letters.length
      ? letters.map(([reason, n]) => h("li", {}, h("span", {}, reason.replaceAll("_", " ")), h("span", {}, count(n))))
      : [empty("none since this page follows the stream")],
  );
}

const STATES = { current: "current", before: "served before", taken_back: "taken back", not_promoted: "not promoted", unreadable: "cannot be read" };

/** The timeline of versions, refusals and rollbacks. onPromote(version) is asked by a button. */
export function showModels({ models, first_answers: answered }, onPromote) {
  if (!models.versions) return;
  const live = new Map(answered.map((one) => [one.version, one]));
  const entries = [
    ...models.versions.map((one) => ({ ...one, kind: "version", live: live.get(one.version) })),
    ...models.refusals.map((one) => ({ ...one, kind: "refusal" })),
    ...models.rollbacks.map((one) => ({ ...one, kind: "rollback" })),
  ].sort((a, b) => (b.at ?? 0) - (a.at ?? 0));
  $("model").textContent = models.serving ? `model ${models.serving}` : "no model yet";
  fill($("timeline"), [entries.slice(0, 16), models.serving], ([shown]) =>
    shown.length
      ? shown.map((entry) => (entry.kind === "version" ? versionRow(entry, models, onPromote) : eventRow(entry)))
      : [empty("no version yet: the trainer publishes the first")],
  );
}

function versionRow(entry, { serving }, onPromote) {
  const { version, at, state, metrics, verdict, clicks, live } = entry;
  const figures = Object.entries(metrics).map(([name, value]) => `${name} ${value.toFixed(4)}`);
  const facts = [
    verdict || (figures.length ? `HR@10 ${figures.join(", ")}` : ""),
    clicks ? `${count(clicks)} clicks learned` : "",
    live ? `live: ${count(live.hits)} of ${count(live.judged)} next clicks, first answer ${timeOf(live.at)}` : "",
  ].filter(Boolean);
  const promote = ["before", "taken_back", "not_promoted"].includes(state)
    ? h("button", { type: "button", class: "quiet", "data-key": version, onclick: () => onPromote(version) }, "Promote")
    : null;
  return h(
    "li",
    { class: state },
    h("span", { class: "mono" }, version),
    h("span", { class: "state" }, version === serving ? "serves" : STATES[state] ?? ""),
    promote,
    h("time", { class: "time" }, at ? timeOf(at) : ""),
    h("span", { class: "detail" }, facts.join(" · ")),
  );
}

function eventRow(entry) {
  const text = entry.kind === "refusal" ? "The gate refused a candidate" : `Rolled back from ${entry.version}`;
  return h(
    "li",
    {},
    h("span", {}, text),
    h("time", { class: "time" }, timeOf(entry.at)),
    h("span", { class: "detail" }, entry.reason),
  );
}
