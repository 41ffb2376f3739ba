// One recommendation list, with its reasons.

import { fill, h, nameOf } from "./dom.js";

/** "because of Puppy Food ×3.2, Food Bowl ×1.4": the clicks that made an item likelier. */
export function reasons(item, history) {
  const likelier = (item.why ?? [])
    .map((nats, i) => ({ nats, id: history[i] }))
    .filter(({ nats }) => nats > 0.1)
    .sort((a, b) => b.nats - a.nats)
    .slice(0, 2)
    .map(({ nats, id }) => `${nameOf(id)} ×${times(nats)}`);
  return likelier.length ? `because of ${likelier.join(", ")}` : "these clicks do not make it likelier";
}

const times = (nats) => {
  const factor = Math.exp(nats);
  return factor < 10 ? factor.toFixed(1) : Math.round(factor).toLocaleString("en");
};

function cells(item, history) {
  const cell = (nats, i) =>
    h("i", {
      class: nats < 0 ? "less" : "",
      title: `${nameOf(history[i])}: ${times(nats)} times as likely`,
      "--strength": nats < 0 ? 0.5 : Math.min(1, nats / 3),
    });
  return h("span", { class: "cells", "aria-hidden": "true" }, ...(item.why ?? []).map(cell));
}

const score = (item) => h("span", { class: "score" }, item.score.toFixed(3));
const rank = (i) => h("span", { class: "rank" }, `${i + 1}`);

/** Draw a list whose items can be clicked. ranksBefore: item id → rank in the list before, or null. */
export function drawPickable(element, { items, history }, ranksBefore, onPick) {
  fill(element, { items, history, before: ranksBefore && [...ranksBefore] }, () =>
    items.map((item, i) => {
      const before = ranksBefore?.get(item.id);
      const was = ranksBefore ? (before ? `was ${before}` : "new") : "";
      const why = history.length ? h("span", { class: "why" }, reasons(item, history)) : null;
      return h(
        "li",
        {},
        h(
          "button",
          { type: "button", class: "pick", onclick: () => onPick(item.id), "data-key": item.id },
          rank(i),
          h("span", { class: "name" }, nameOf(item.id), why),
          h("span", { class: "row" }, h("span", { class: "was" }, was), cells(item, history)),
          score(item),
        ),
      );
    }),
  );
}

/** Draw a list to look at. isNew(id): whether an item is to be marked. */
export function drawCompact(element, items, isNew, nothing) {
  fill(element, { items, marked: items.map(({ id }) => isNew(id)), nothing }, () =>
    items.length
      ? items.map((item, i) =>
          h(
            "li",
            { class: isNew(item.id) ? "new" : "" },
            h("span", {}, rank(i), h("span", { class: "name" }, nameOf(item.id)), score(item)),
          ),
        )
      : [h("li", {}, h("p", {}, nothing))],
  );
}
