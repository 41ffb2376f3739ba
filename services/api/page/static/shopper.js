// Be the shopper: a history of one's own, the lists for it, and the box that finds items.

import { $, fill, h, learnTitles, nameOf } from "./dom.js";
import { drawCompact, drawPickable } from "./list.js";
import { ask } from "./server.js";

const LONGEST = 100;

/** onError(text): show an error. onPublished(user): a click of this user is in the stream. */
export function beTheShopper({ onError, onPublished }) {
  let history = [];
  let newest = 0;

  async function pick(id) {
    history = [...history, id].slice(-LONGEST);
    closeSuggestions();
    $("search").value = "";
    const fromList = $("list").contains(document.activeElement);
    const shown = await show(`You clicked ${nameOf(id)}. `);
    if (shown && fromList) $("list").querySelector("button")?.focus();
    if ($("publish").checked) await publish(id);
  }

  async function publish(id) {
    const user = $("publish-as").value.trim();
    if (!user) return onError("your clicks need a user id to be sent to the stream");
    try {
      await ask("page/clicks", { user_id: user, item_id: id });
      onPublished(user);
    } catch (error) {
      onError(`your click is not in the stream: ${error.message}`);
    }
  }

  /** Show the lists for the history; false if a newer click has overtaken this one, or on errors. */
  async function show(news = "") {
    const mine = ++newest;
    $("undo").disabled = $("start-again").disabled = history.length === 0;
    fill($("history"), history, () => history.slice(-10).map((id) => h("li", {}, nameOf(id))));
    try {
      const before = ask("page/list", { history, before: true }).catch(() => null);
      const now = await ask("page/list", { history });
      if (mine !== newest) return false;
      learnTitles(now.titles);
      if (!now.version) throw new Error("there is no model yet; the trainer publishes the first");
      const most = history.length ? "" : "Nothing clicked yet: these are the most clicked items. ";
      $("shopper-news").textContent = `${news}${most}List in ${now.milliseconds} ms.`;
      $("list-version").textContent = now.version;
      draw($("list"), now, null);
      before.then((old) => mine === newest && old && compare(now, old));
      onError("");
      return true;
    } catch (error) {
      if (mine === newest) $("shopper-news").textContent = `No list: ${error.message}.`;
      return false;
    }
  }

  function draw(element, list, ranksBefore) {
    drawPickable(element, list, ranksBefore, pick);
    element.classList.remove("fresh");
    requestAnimationFrame(() => element.classList.add("fresh"));
  }

  function compare(now, old) {
    learnTitles(old.titles);
    $("before-version").textContent = old.version ?? "";
    const ranks = new Map(old.items.map(({ id }, i) => [id, i + 1]));
    const listed = new Set(now.items.map(({ id }) => id));
    drawCompact($("before"), old.items, (id) => !listed.has(id), "No other model has served yet.");
    if (old.version) drawPickable($("list"), now, ranks, pick);
  }

  const closeSuggestions = findItems(pick, onError);
  const goTo = (items) => {
    history = items;
    show();
  };
  $("undo").onclick = () => goTo(history.slice(0, -1));
  $("start-again").onclick = () => goTo([]);
  $("publish-as").value = `page-${Math.random().toString(36).slice(2, 8)}`;
  return { show };
}

/** The combobox of items (WAI-ARIA pattern); returns a function that closes it. */
function findItems(onPick, onError) {
  const box = $("search");
  const options = $("suggestions");
  let found = [];
  let active = -1;
  let asked = 0;

  const close = () => {
    asked++;
    found = [];
    draw();
  };

  function draw() {
    options.hidden = found.length === 0;
    box.setAttribute("aria-expanded", String(!options.hidden));
    options.replaceChildren(
      ...found.map((id, i) =>
        h(
          "li",
          {
            id: `suggestion-${i}`,
            role: "option",
            "aria-selected": String(i === active),
            onmousedown: (event) => event.preventDefault() ?? onPick(id),
          },
          nameOf(id),
        ),
      ),
    );
    if (active >= 0 && found.length) box.setAttribute("aria-activedescendant", `suggestion-${active}`);
    else box.removeAttribute("aria-activedescendant");
  }

  async function look() {
    const mine = ++asked;
    try {
      const answer = await ask(`page/items?q=${encodeURIComponent(box.value)}`);
      if (mine !== asked) return;
      learnTitles(answer.titles);
      found = answer.items;
      active = found.length ? 0 : -1;
      draw();
    } catch (error) {
      onError(error.message);
    }
  }

  box.addEventListener("input", look);
  box.addEventListener("focus", look);
  box.addEventListener("blur", close);
  box.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && found.length) {
      active = (active + step + found.length) % found.length;
      draw();
    } else if (event.key === "Enter" && found[active] !== undefined) onPick(found[active]);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  });
  return close;
}
