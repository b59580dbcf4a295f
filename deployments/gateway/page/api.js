// What the page asks the gateway. All addresses are relative, so that a proxy may put the page
// under any path. The token lives in this tab's session storage and is sent as a header alone.

const KEY = "seedvr2-token";

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

function headers(more = {}) {
  return token() ? { ...more, Authorization: `Bearer ${token()}` } : more;
}

// A browser would ask for a password of its own where it may send credentials.
export async function ask(path, { method = "GET", json, more = {}, signal } = {}) {
  const options = { method, signal, credentials: "omit", cache: "no-store" };
  options.headers = headers(json ? { ...more, "Content-Type": "application/json" } : more);
  if (json) options.body = JSON.stringify(json);
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The gateway cannot be reached. Is it running?", 5);
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  let body = null;
  try {
    body = await answer.json();
  } catch {
    // A proxy's own page says nothing to people.
  }
  const sentence = body?.detail ?? `The gateway answered ${answer.status}.`;
  return new Refused(answer.status, sentence, Number(answer.headers.get("Retry-After")), body);
}

export async function read(path, options) {
  return (await ask(path, options)).json();
}

// Sends a file; only XMLHttpRequest tells how much of it has gone out.
export function sendFile(path, file, onShare) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => onShare(event.loaded / Math.max(1, event.total));
    request.onerror = () => reject(new Refused(0, "The connection to the gateway broke.", 5));
    request.onload = () => {
      let body = null;
      try {
        body = JSON.parse(request.responseText);
      } catch {
        // handled as a refusal without a sentence
      }
      if (request.status >= 200 && request.status < 300 && body) resolve(body);
      else {
        const after = Number(request.getResponseHeader("Retry-After"));
        const sentence = body?.detail ?? `The gateway answered ${request.status}.`;
        reject(new Refused(request.status, sentence, after, body));
      }
    };
    request.send(file);
  });
}

const pause = (seconds, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); });
  });

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
  const answer = await ask(`events/${encodeURIComponent(id)}`, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return false;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").find((line) => line.startsWith("data: "));
      if (!part.startsWith("event: status") || !data) continue;
      const job = JSON.parse(data.slice(6));
      show(job);
      if (ended(job)) return true;
    }
  }
}

export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
