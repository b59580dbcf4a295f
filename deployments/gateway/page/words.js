// Numbers and states in words. Whatever comes from outside goes into the page as text, never as HTML.

export const $ = (id) => document.getElementById(id);

export const STATES = {
  pending: "waiting",
  processing: "at work",
  completed: "completed",
  failed: "failed",
  cancelled: "cancelled",
};

// What a choice means, by field and value; a value without words stands alone.
const CHOICES = {
  resolution: {
    "720p": "HD, as many pixels as 1280x720",
    "1080p": "Full HD, as many pixels as 1920x1080",
    "2k": "as many pixels as 2560x1440",
    "4k": "Ultra HD, as many pixels as 3840x2160",
    "short:720": "the shorter side becomes 720",
    "short:1080": "the shorter side becomes 1080",
    "short:1440": "the shorter side becomes 1440",
    "short:2160": "the shorter side becomes 2160",
    own: "a factor such as 2x, or a box such as 1920x1080",
  },
  model: {
    auto: "the best that can run here",
    "seedvr2-7b": "restores most; needs a GPU and its weights",
    "seedvr2-7b-sharp": "the same, sharper; needs a GPU and its weights",
    "seedvr2-3b": "a smaller SeedVR2; needs a GPU and its weights",
    "seedvr2-1.4b": "for stills, by its author's word; needs a GPU and its weights",
    span: "small and quick, without a GPU; for sources of good quality",
    waifu2x: "small and quick, without a GPU; takes away noise and traces of compression",
    lanczos: "resizes only, restores nothing",
  },
  codec: {
    auto: "H.264, or HEVC for HDR and more than 8 bits",
    h264: "plays everywhere; 8 bits",
    hevc: "smaller files, 10 bits and HDR",
    av1: "small files, 10 bits and HDR; newer players",
    prores: "for editing; large files",
    dnxhr: "for editing; large files",
    ffv1: "lossless; very large files",
    vp9: "for the web, transparent where the video is (WebM)",
    png: "a picture of each frame, in a zip; lossless, very large",
    tiff: "a picture of each frame with 16 bits, in a zip; enormous",
    jpeg: "a picture of each frame, in a zip; small, 8 bits",
    webp: "a picture of each frame, in a zip; smaller, 8 bits, holds alpha",
    exr: "a picture of each frame as linear light (half float), in a zip; enormous",
  },
};

const SHORT = { fps: "FPS", crf: "CRF" };

// What stands over a field of the request: its name, so that it is found in the documentation.
export function fieldWords(name) {
  const words = SHORT[name] ?? name.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

export function choiceWords(field, value) {
  const words = CHOICES[field]?.[value];
  return words ? `${value}: ${words}` : value;
}

export function duration(seconds) {
  const whole = Math.round(Math.max(0, seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  const minutes = Math.floor((whole % 3600) / 60);
  return `${Math.floor(whole / 3600)} h ${String(minutes).padStart(2, "0")} min`;
}

// A place in a film, to the tenth of a second: 0:42, 1:02:03.5.
export function clock(seconds) {
  const tenths = Math.floor(10 * Math.max(0, seconds) + 1e-6);
  const whole = Math.floor(tenths / 10);
  const two = (number) => String(number).padStart(2, "0");
  const rest = tenths % 10 ? `.${tenths % 10}` : "";
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${two(whole % 60)}${rest}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}${rest}`;
}

// The seconds of such a place, or of seconds alone; null where it is none.
export function secondsOf(text) {
  const found = /^(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)$/.exec(text.trim());
  if (!found) return null;
  const [, hours, minutes, seconds] = found;
  return Math.round(1000 * (3600 * (hours ?? 0) + 60 * (minutes ?? 0) + Number(seconds))) / 1000;
}

// What went wrong and what helps, as two sentences; the remedy may stand in the sentence already.
export function trouble(sentence, remedy, code) {
  const told = code ? `${sentence} (${code})` : sentence;
  if (!remedy || sentence.includes(remedy)) return told;
  return `${told}${/[.!?]$/.test(told) ? "" : "."} What helps: ${remedy}`;
}

export function counted(number, word) {
  return `${number} ${word}${number === 1 ? "" : "s"}`;
}

export function size(megabytes) {
  if (megabytes < 0.1) return `${Math.ceil(1000 * megabytes)} kB`;
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
