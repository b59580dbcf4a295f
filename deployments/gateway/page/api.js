// What the page asks the gateway. All addresses are relative, so that a proxy may put the page
// under any path. The token lives in this tab's session storage and is sent as a header alone.

const KEY = "seedvr2-token";
const SILENT_SECONDS = 45;
const SILENT = "The gateway does not answer.";

export class Refused extends Error {
  constructor(status, sentence, retryAfter, body) {
    super(sentence);
    this.status = status;
    this.retryAfter = retryAfter;
    this.code = body?.code ?? null;
    this.remedy = body?.remedy ?? null;
  }
}

export function token() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function keepToken(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

export function headers(more = {}) {
  return token() ? { ...more, Authorization: `Bearer ${token()}` } : more;
}

// A browser would ask for a password of its own where it may send credentials. `within` says after
// how many seconds an answer that is not whole is given up; null: the caller watches over it.
export async function ask(path, { method = "GET", json, more = {}, signal, within = SILENT_SECONDS } = {}) {
  const options = { method, signal: limited(signal, within), credentials: "omit", cache: "no-store" };
  options.headers = headers(json ? { ...more, "Content-Type": "application/json" } : more);
  if (json) options.body = JSON.stringify(json);
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    throw broken(error);
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

// The signal of a request: the caller's own, and its time. A connection may die without a word,
// behind a proxy or when a server is gone, and then no browser ends the request by itself.
function limited(signal, within) {
  const ends = [signal, within && AbortSignal.timeout(1000 * within)].filter(Boolean);
  return AbortSignal.any(ends);
}

// What it means to people that a request has no answer; what the page itself has ended stays so.
function broken(error) {
  if (error.name === "TimeoutError") return new Refused(0, SILENT, 5);
  if (error.name !== "TypeError") return error;
  return new Refused(0, "The gateway cannot be reached. Is it running?", 5);
}

async function refusal(answer) {
  const text = await answer.text().catch(() => "");
  return parsed(answer.status, text, answer.headers.get("Retry-After"));
}

export async function read(path, options) {
  const answer = await ask(path, options);
  try {
    return valueOf(await answer.text());
  } catch (error) {
    throw broken(error);
  }
}

// The value of a JSON text. A seed has up to 64 bits, of which a number of JavaScript holds 53: a
// large one stays text. Inside a text of the JSON its second quote would have a backslash in front.
function valueOf(json) {
  return JSON.parse(json.replace(/"seed":\s*(\d{16,})/g, '"seed":"$1"'));
}

const AWAY = [0, 502, 503, 504];
const AGAIN_SECONDS = 3;

// Whether somebody is away for a while (gateway, Prefect), so that it helps to ask again.
export const isAway = (error) => AWAY.includes(error.status);

// Asks until somebody answers: what a page shows of a finished job must not depend on whether the
// gateway or Prefect's server was away for a moment.
export async function askPatiently(path, signal) {
  for (;;) {
    try {
      return await ask(path, { signal });
    } catch (error) {
      if (signal.aborted || !isAway(error)) throw error;
      await pause(error.retryAfter || AGAIN_SECONDS, signal);
      if (signal.aborted) throw error;
    }
  }
}

// The refusal in an answer that was read as text.
export function parsed(status, text, retryAfter) {
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy's own page says nothing to people.
  }
  const sentence = body?.detail ?? `The gateway answered ${status}.`;
  return new Refused(status, sentence, Number(retryAfter), body);
}

const pause = (seconds, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); });
  });

// A signal that also ends a stream that has been silent for too long: the gateway gives a sign of
// life every 15 s.
function patience(signal, seconds = SILENT_SECONDS) {
  const own = new AbortController();
  const stop = () => own.abort();
  let timer = setTimeout(stop, 1000 * seconds);
  signal.addEventListener("abort", stop);
  return {
    signal: own.signal,
    heard() {
      clearTimeout(timer);
      timer = setTimeout(stop, 1000 * seconds);
    },
    end() {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
      stop();
    },
  };
}

const ended = (job) => ["completed", "failed", "cancelled"].includes(job.status);

// Calls `show` with the job's status whenever it changes, until it has ended. Where there are no
// events, or their stream breaks, it asks.
export async function follow(id, show, signal) {
  while (!signal.aborted) {
    try {
      if (await listen(id, show, signal)) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 401 || error.status === 404) throw error;
      if (error.name === "AbortError") show(null, SILENT);
    }
    await pause(2, signal);
    if (signal.aborted) return;
    try {
      const job = await read(`status/${encodeURIComponent(id)}`, { signal });
      show(job);
      if (ended(job)) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 401 || error.status === 404) throw error;
      show(null, error.message);
    }
  }
}

async function listen(id, show, signal) {
  const patient = patience(signal);
  try {
    const path = `events/${encodeURIComponent(id)}`;
    const answer = await ask(path, { signal: patient.signal, within: null });
    return await statuses(answer, show, patient.heard);
  } finally {
    patient.end();
  }
}

// Shows each status of a stream of events; true if the last one has ended the job.
async function statuses(answer, show, heard) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    heard();
    if (done) return false;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").find((line) => line.startsWith("data: "));
      if (!part.startsWith("event: status") || !data) continue;
      const job = valueOf(data.slice(6));
      show(job);
      if (ended(job)) return true;
    }
  }
}

export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
