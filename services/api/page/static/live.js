// A live shopper of the stream: a busy one, until another is chosen.

import { $, fill, h, learnTitles, nameOf, percent } from "./dom.js";
import { drawCompact } from "./list.js";
import { ask } from "./server.js";

export function watchShoppers(onError) {
  let user = null;
  let chosen = false;
  let asking = false;

  async function refresh() {
    if (!user || asking || document.hidden) return;
    asking = true;
    const asked = user;
    try {
      const found = await ask(`page/shopper?user_id=${encodeURIComponent(asked)}`);
      if (asked === user) draw(found);
      onError("");
    } catch (error) {
      onError(error.message);
    } finally {
      asking = false;
    }
  }

  function draw({ user_id: id, clicks, judged, hits, rank, history, items, titles }) {
    learnTitles(titles);
    const last = rank ? `; the last one was no. ${rank} of the list before` : "";
    $("live-news").textContent = clicks
      ? `${id}: ${hits} of ${judged} clicks were among the ten${last}`
      : `${id} does not click at the moment; this is the stored session`;
    fill($("live-history"), [id, history], () => history.map((item) => h("li", {}, nameOf(item))));
    drawCompact($("live-list"), items, () => false, "No list.");
  }

  function watch(id) {
    user = id;
    chosen = true;
    refresh();
  }

  function show({ shoppers }) {
    if (!chosen && !shoppers.some(({ user: id }) => id === user)) user = shoppers[0]?.user ?? null;
    fill($("busiest"), [user, shoppers.map(({ user: id }) => id)], () =>
      shoppers.map(({ user: id, judged, hits }) =>
        h(
          "button",
          {
            type: "button",
            "aria-pressed": String(id === user),
            "data-key": id,
            title: judged ? `${percent(hits / judged)} among the ten` : "",
            onclick: () => watch(id),
          },
          id,
        ),
      ),
    );
    refresh();
  }

  $("watch").addEventListener("submit", (event) => {
    event.preventDefault();
    if ($("watch-user").value.trim()) watch($("watch-user").value.trim());
  });
  return { show, watch };
}
