// The page for a new job: a source and options become a plan, and the plan a job.

import { isAway, newKey, read } from "./api.js";
import * as piece from "./piece.js";
import { sendFile } from "./upload.js";
import { $, choiceWords, duration, element, facts, fieldWords, notes, size } from "./words.js";

const FIRST = ["resolution", "model", "codec"];
const OWN = "own"; // the choice beside those of the schema; a field takes what it is
const PLAN_SECONDS = 300; // until the gateway has fetched and read a video, or says that it goes on
const NOTES = "Notes"; // a section with a place of its own: what stands there changes no plan
const LEFT_OUT = [
  "video_url", "video_path", "video_base64", "output_url", "callback_url", "callback_events",
  "preview", // it has a form of its own, which knows how long the film is
];
const HINTS = {
  resolution: "A video of another shape keeps its shape and gets about as many pixels.",
  model: "The plan says what auto has become, and why.",
  codec: "How well it is coded, and in which kind of file, stands under More options.",
  tags: "Words by which the job is found, with commas between them.",
  metadata: "One in a line, its name first: order = 17. They come back with the job.",
};

let chosen = null; // the file that was picked or dropped
let sent = null; // {file, video_url}: it need not be sent again
let planned = null; // what a request says in video_url for the plan on the page
let unanswered = null; // {body, key}: the job that was asked for and not answered
let turn = 0; // a newer plan makes the ones before it pointless

export async function prepare(tell) {
  const api = await read("openapi.json");
  const body = api.paths["/upscale"].post.requestBody.content["application/json"].schema;
  arrange(body.properties, body["x-sections"]);
  $("new").addEventListener("submit", (event) => {
    event.preventDefault();
    makePlan(tell);
  });
  $("new").addEventListener("input", (event) => {
    if (!event.target.closest("#notes")) forget(); // no note changes a plan
  });
  $("address").addEventListener("input", () => {
    if ($("address").value && chosen) {
      $("file").value = "";
      choose(null);
    }
  });
  $("file").addEventListener("change", () => choose($("file").files[0] ?? null));
  $("start").addEventListener("click", () => start(tell, $("start")));
  piece.prepare((wanted) => start(tell, $("make-piece"), { preview: wanted }));
  dropZone($("drop"));
}

// The fields in the sections and the order of Prefect's form, but for the three that come first.
function arrange(properties, sections) {
  for (const [heading, names] of Object.entries(sections)) {
    const shown = names.filter((name) => !LEFT_OUT.includes(name));
    const made = (name) => control(name, properties[name]);
    const isFirst = (name) => FIRST.includes(name);
    $("options").append(...shown.filter(isFirst).map(made));
    const more = shown.filter((name) => !isFirst(name)).map(made);
    if (heading === NOTES) $("note-options").append(...more);
    else if (more.length) $("more-options").append(section(heading, more));
  }
}

function section(heading, fields) {
  const group = element("fieldset");
  const grid = element("div", undefined, { class: "fields" });
  grid.append(...fields);
  group.append(element("legend", heading), grid);
  return group;
}

function dropZone(zone) {
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    $("file").files = event.dataTransfer.files; // what the input shows must be what is sent
    choose($("file").files[0] ?? null);
  });
}

function choose(file) {
  chosen = file;
  if (file) $("address").value = "";
  $("chosen").textContent = file ? `${file.name}, ${size(file.size / 1e6)}` : "";
  forget();
}

// What is on the page is no plan of what the form says now.
function forget() {
  turn += 1;
  planned = null;
  $("plan").hidden = true;
  $("make-plan").disabled = false;
  $("planning").textContent = "";
  $("sending").hidden = true;
}

// A control for a field of the request, with the schema's own words.
function control(name, property) {
  const kind = property.anyOf?.find((one) => one.type !== "null") ?? property;
  const choices = property.enum ?? kind.enum ?? property.examples;
  const box = element("div");
  const id = `option-${name}`;
  const hint = HINTS[name] ?? (property.description ?? "").replaceAll("`", "");
  const attributes = { id, name, "aria-describedby": `${id}-hint` };
  const title = fieldWords(name);
  let input;
  let more = [];
  if (choices) {
    input = element("select", undefined, attributes);
    const worded = (choice) => element("option", choiceWords(name, choice), { value: choice });
    input.append(...choices.map(worded));
    input.value = property.default;
    more = ownChoice(input, title, property);
  } else if (kind.type === "boolean") {
    input = element("input", undefined, { ...attributes, type: "checkbox" });
  } else if (name === "metadata") {
    input = element("textarea", undefined, { ...attributes, rows: 3, spellcheck: "false" });
  } else {
    const numbers = ["integer", "number"].includes(kind.type);
    const inputmode = numbers ? "decimal" : "text";
    input = element("input", undefined, { ...attributes, type: "text", inputmode });
    input.value = property.default ?? "";
  }
  input.dataset.default = String(property.default ?? "");
  const label = element("label", title, { for: id });
  box.append(label, input, ...more, element("p", hint, { id: `${id}-hint`, class: "hint" }));
  return box;
}

// One more choice of a select, and the field for it, where the schema also takes other texts.
function ownChoice(select, title, property) {
  if (!property.pattern) return [];
  select.append(element("option", choiceWords(select.name, OWN), { value: OWN }));
  const field = element("input", undefined, {
    id: `${select.id}-own`,
    type: "text",
    pattern: property.pattern,
    placeholder: "2x or 1920x1080",
    title: "A factor such as 2x, or a box such as 1920x1080",
    "aria-label": `${title} of your own`,
  });
  field.hidden = true;
  select.addEventListener("input", () => {
    field.hidden = select.value !== OWN;
    field.required = !field.hidden;
    if (!field.hidden) field.focus();
  });
  return [field];
}

// The options that differ from their defaults; numbers stay text, which keeps large seeds whole.
function options() {
  const asked = {};
  for (const input of $("new").querySelectorAll("[name]")) {
    const typed = input.value === OWN ? $(`${input.id}-own`) : input;
    const value = input.type === "checkbox" ? String(input.checked) : typed.value.trim();
    const usual = input.type === "checkbox" ? input.dataset.default || "false" : input.dataset.default;
    if (value !== usual && value !== "") asked[input.name] = value;
  }
  if (asked.metadata) asked.metadata = noted(asked.metadata);
  return asked;
}

// Lines of "name = value" as an object of texts; an object that is JSON already goes as it is.
function noted(text) {
  if (text.startsWith("{")) return text;
  const pairs = new Map();
  for (const line of text.split("\n").filter((one) => one.trim())) {
    const [name, ...value] = line.split("=");
    if (!name.trim() || !value.length) throw new Error(`Metadata: no "name = value": ${line}`);
    if (pairs.has(name.trim())) throw new Error(`Metadata: ${name.trim()} is there twice.`);
    pairs.set(name.trim(), value.join("=").trim());
  }
  return Object.fromEntries(pairs);
}

async function makePlan(tell) {
  const address = $("address").value.trim();
  tell("");
  if (!address && !chosen) {
    tell("Choose a file or give the address of a video.");
    $("file").focus();
    return;
  }
  forget();
  const mine = turn;
  $("make-plan").disabled = true;
  try {
    const asked = options();
    const plan = await planOf(address, asked, mine);
    if (mine !== turn || !plan) return;
    planned = plan.video_url;
    show(plan);
  } catch (error) {
    if (mine === turn) tell(error);
  } finally {
    if (mine === turn) {
      $("make-plan").disabled = false;
      $("planning").textContent = planned ? "The plan is ready." : "";
      $("sending").hidden = true;
    }
  }
}

async function planOf(address, asked, mine) {
  if (address) return patiently({ ...asked, video_url: address }, mine);
  if (sent?.file === chosen) return patiently({ ...asked, video_url: sent.video_url }, mine);
  const file = chosen;
  $("sending").hidden = false;
  $("planning").textContent = "The video is being sent.";
  const videoUrl = await sendFile(file, {
    onShare(share) {
      if (mine !== turn) return;
      $("sending").value = 100 * share;
      $("planning").textContent = share < 1 ? "The video is being sent." : "The video is being read.";
    },
    onWait(sentence) {
      if (mine === turn) $("planning").textContent = sentence;
    },
    stopped: () => mine !== turn,
  });
  if (!videoUrl) return null;
  sent = { file, video_url: videoUrl };
  return patiently({ ...asked, video_url: videoUrl }, mine);
}

// A long download is waited for: each question goes on where the one before it stopped.
async function patiently(request, mine) {
  $("planning").textContent = "The video is being fetched and read.";
  while (mine === turn) {
    try {
      return await read("plan", { method: "POST", json: request, within: PLAN_SECONDS });
    } catch (error) {
      if (!isAway(error)) throw error;
      if (mine === turn) $("planning").textContent = error.message;
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter || 5)));
    }
  }
  return null;
}

function show(plan) {
  const memory = Object.entries(plan.memory_gb).map(([phase, peak]) => `${phase} ${peak} GB`);
  const [width, height] = plan.source_size;
  facts($("plan-facts"), [
    ["Source", `${plan.source}: ${width}x${height}, ${plan.frames} frames, ` +
      `${plan.duration_seconds.toFixed(1)} s`],
    ["Result", `${plan.width}x${plan.height}`],
    ["Coded as", `${plan.format.codec}, ${plan.format.bits} bits, in ${plan.format.container}`],
    ["Made by", `${plan.engine} on ${plan.device}`],
    ["Segments", plan.segments],
    ["Memory", memory.join(", ")],
    ["Time", `about ${duration(plan.eta_seconds)}${plan.eta_is_guess ? " (a guess)" : ""}`],
    ["Price", plan.price === null ? null : plan.price.toFixed(2)],
  ]);
  notes($("plan-notes"), plan.notes);
  piece.offer(plan);
  $("plan").hidden = false;
  $("plan-title").focus();
}

// What was sent in vain is sent again under the same key: the job must not be made twice.
function keyOf(json) {
  const body = JSON.stringify(json);
  if (unanswered?.body !== body) unanswered = { body, key: newKey() };
  return unanswered.key;
}

// `more` is asked for beside the form: a preview.
async function start(tell, button, more = {}) {
  if (!planned) return;
  tell("");
  button.disabled = true;
  try {
    // The notes may be newer than the plan.
    const json = { ...options(), ...more, video_url: planned };
    const headers = { "Idempotency-Key": keyOf(json) };
    const job = await read("upscale", { method: "POST", json, more: headers });
    unanswered = null;
    location.hash = `#/jobs/${job.job_id}`;
  } catch (error) {
    tell(error);
  } finally {
    button.disabled = false;
  }
}
