// The page: signs in if a key is set, then follows the events.

import { makeCharts } from "./charts.js";
import { $, learnTitles } from "./dom.js";
import { watchShoppers } from "./live.js";
import { METHODS, showHeadline, showHealth, showModels, showStream } from "./panels.js";
import { ask, follow } from "./server.js";
import { beTheShopper } from "./shopper.js";

let charts = null;
let shopper = null;
let live = null;
let serving; // undefined until the first event
let current = null;

const errors = { server: "", shopper: "", live: "", models: "" };

/** Show what is wrong with one part of the page, in one line; an empty text takes it back. */
function showError(part, text) {
  errors[part] = text;
  const line = Object.values(errors).find(Boolean) ?? "";
  if ($("error").textContent === line) return;
  $("error").hidden = !line;
  $("error").textContent = $("error").title = line;
}

function showStatus(state, text) {
  if ($("connection").textContent !== text) $("connection").textContent = text;
  $("connection").dataset.state = state;
  document.body.classList.toggle("out-of-date", state === "disconnected" || state === "stale");
}

function showState(state) {
  learnTitles(state.titles);
  showError("server", state.error);
  showHeadline(state);
  showStream(state);
  showHealth(state);
  showModels(state, (version) => move("promote", version, `Let ${version} serve?`, "Promote"));
  live.show(state);
  const swaps = state.first_answers.slice(1).map(({ at }) => at / 1000);
  charts.add(state.points, swaps);
  current = state.models.current ?? null;
  $("roll-back").disabled = !state.models.versions?.some((one) => one.state === "before");
  if (state.models.serving !== serving) {
    serving = state.models.serving;
    shopper.show();
  }
}

async function move(action, version, question, verb) {
  $("confirm-question").textContent = question;
  $("confirm-yes").textContent = verb;
  $("confirm").returnValue = "no";
  $("confirm").showModal();
  await new Promise((closed) => $("confirm").addEventListener("close", closed, { once: true }));
  if ($("confirm").returnValue !== "yes") return;
  try {
    await ask("page/model", { action, version });
    showError("models", "");
  } catch (error) {
    showError("models", error.message);
  }
}

function openPage() {
  $("sign-in").hidden = true;
  $("content").hidden = false;
  charts ??= makeCharts(METHODS);
  live ??= watchShoppers((text) => showError("live", text));
  shopper ??= beTheShopper({
    onError: (text) => showError("shopper", text),
    onPublished: (user) => live.watch(user),
  });
  follow({ onState: showState, onStatus: showStatus, onSignedOut: askForKey });
}

function askForKey() {
  showStatus("signed-out", "signed out");
  $("content").hidden = true;
  $("sign-in").hidden = false;
  $("key").focus();
}

$("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask("page/session", { key: $("key").value });
    $("key").value = $("sign-in-error").textContent = "";
    $("sign-out").hidden = false;
    openPage();
  } catch (error) {
    $("sign-in-error").textContent = error.message;
    $("key").select();
  }
});
$("sign-out").onclick = async () => {
  await ask("page/session", null, "DELETE");
  location.reload();
};
$("roll-back").onclick = () =>
  move("rollback", current, `Go back from ${current} to the version before it?`, "Roll back");

const dark = matchMedia("(prefers-color-scheme: dark)");
function showTheme() {
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
  $("theme").textContent = (chosen ? chosen === "dark" : dark.matches) ? "Light" : "Dark";
  charts?.redraw();
}
$("theme").onclick = () => {
  localStorage.setItem("theme", $("theme").textContent.toLowerCase());
  showTheme();
};
dark.addEventListener("change", showTheme);
showTheme();

async function begin() {
  try {
    const { needs_key: needsKey, signed_in: signedIn } = await ask("page/session");
    showError("server", "");
    $("sign-out").hidden = !(needsKey && signedIn);
    if (signedIn) openPage();
    else askForKey();
  } catch (error) {
    showStatus("disconnected", "disconnected");
    showError("server", error.message);
    setTimeout(begin, 2000);
  }
}
begin();
