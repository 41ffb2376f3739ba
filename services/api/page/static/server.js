// Requests to the server, and its stream of events.

const STALE_MS = 5000;
const DEAD_MS = 15000;
const LONGEST_WAIT_S = 30;

/** Ask for JSON; raises an Error with the detail of the problem document. */
export async function ask(path, body = null, method = body ? "POST" : "GET") {
  const headers = body ? { "Content-Type": "application/json" } : {};
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("the server cannot be reached");
  }
  const content = (answer.headers.get("content-type") ?? "").includes("json") ? await answer.json() : null;
  if (answer.ok) return content;
  throw Object.assign(new Error(content?.detail ?? answer.statusText), { status: answer.status });
}

/** Follow the events: onState(state), onStatus(name, text); onSignedOut() if a session is needed. */
export function follow({ onState, onStatus, onSignedOut }) {
  let source = null;
  let heardAt = 0;
  let tries = 0;
  let timer = null;

  function open() {
    timer = null;
    heardAt = performance.now();
    source = new EventSource("page/events");
    source.onmessage = ({ data }) => {
      heardAt = performance.now();
      tries = 0;
      onStatus("live", "live");
      onState(JSON.parse(data));
    };
    source.onerror = lost;
  }

  async function lost() {
    source?.close();
    source = null;
    if (timer) return;
    const wait = Math.min(LONGEST_WAIT_S, 2 ** tries++);
    timer = setTimeout(open, wait * 1000 * (0.75 + Math.random() / 2));
    onStatus("disconnected", `disconnected, trying again in ${wait} s`);
    try {
      if ((await ask("page/session")).signed_in) return;
    } catch {
      return;
    }
    stop();
    onSignedOut();
  }

  function stop() {
    source?.close();
    clearTimeout(timer);
    clearInterval(watch);
  }

  const watch = setInterval(() => {
    const silent = performance.now() - heardAt;
    if (source && silent > DEAD_MS) lost();
    else if (source && silent > STALE_MS) onStatus("stale", `no news for ${Math.round(silent / 1000)} s`);
  }, 1000);
  open();
  return stop;
}
