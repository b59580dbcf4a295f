// Numbers and states in words. Whatever comes from outside goes into the page as text, never as HTML.

export const $ = (id) => document.getElementById(id);

export const STATES = {
  pending: "waiting",
  processing: "at work",
  completed: "completed",
  failed: "failed",
  cancelled: "cancelled",
};

export function duration(seconds) {
  const whole = Math.round(Math.max(0, seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  const minutes = Math.floor((whole % 3600) / 60);
  return `${Math.floor(whole / 3600)} h ${String(minutes).padStart(2, "0")} min`;
}

export function size(megabytes) {
  return megabytes >= 1000 ? `${(megabytes / 1000).toFixed(2)} GB` : `${megabytes.toFixed(1)} MB`;
}

export function moment(iso) {
  return iso ? new Date(iso).toLocaleString() : "";
}

export function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Fills a list of facts; those without a value are left out.
export function facts(list, pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  list.replaceChildren(
    ...known.flatMap(([name, value]) => [element("dt", name), element("dd", String(value))]),
  );
}

export function notes(list, lines) {
  list.replaceChildren(...(lines ?? []).map((line) => element("li", line)));
  list.hidden = !lines?.length;
}

export function isWebAddress(text) {
  try {
    return ["http:", "https:"].includes(new URL(text).protocol);
  } catch {
    return false;
  }
}
