// The page of one job: its stages and numbers while it works, the result when it is done.

import { askPatiently, follow, read } from "./api.js";
import * as watch from "./watch.js";
import { $, STATES, clock, counted, duration, element, facts, isWebAddress, moment, notes, size, trouble } from "./words.js";

const STAGES = [
  ["Wait", []],
  ["Fetch", ["prepare", "fetch"]],
  ["Plan", ["probe", "cuts", "hash", "plan", "measure", "planned"]],
  ["Load", ["wait", "load"]],
  ["Restore", ["restore", "encode", "dit", "decode"]],
  ["Store", ["deliver", "join", "picture", "upload", "verify", "report", "finish", "done"]],
];
// Prefect's line about each task that ended well; which one it was stands in Prefect's UI alone.
const ENDED_WELL = "Finished in state Completed()";
const OVER_BUDGET = "over_budget"; // the code of a job that its limit of time or price has stopped
const DIVIDER_PX = 4; // between the two halves of the picture
// A result that is one picture is shown whole, and large.
const PICTURE = /\.(png|tiff?|jpe?g|webp|exr)$/i;

let watching = null; // ends the watch of the job that was shown before
let job = null;
let picture = null; // {bitmap, half}: the before/after picture, both halves side by side
let stage = 0;
let logAt = 0;
let isHere = false; // whether the gateway has the result, and gives it to be saved

export function prepare(tell) {
  $("stages").replaceChildren(...STAGES.map(([name]) => element("li", name)));
  $("cancel").addEventListener("click", () => act(tell, "cancel"));
  $("retry").addEventListener("click", () => act(tell, "retry"));
  $("whole").addEventListener("click", () => act(tell, "whole"));
  $("limit-form").addEventListener("submit", (event) => {
    event.preventDefault();
    act(tell, "retry", $("go-on"), `?${limits()}`);
  });
  $("download").addEventListener("click", (event) => {
    if (!isHere) return; // a link to elsewhere, in a tab of its own
    event.preventDefault();
    save(tell);
  });
  $("divider").addEventListener("input", draw);
  $("log-box").addEventListener("toggle", showLog);
  watch.prepare();
}

export function leave() {
  watching?.abort();
  watching = null;
  watch.leave();
}

export async function open(id, tell) {
  leave();
  job = picture = null;
  stage = 0;
  isHere = false;
  $("job-title").textContent = "Job";
  $("job-id").textContent = id;
  $("job-status").textContent = "Asking for the job.";
  for (const name of ["compare", "cancel", "retry", "limit-form", "whole", "download", "job-error"])
    $(name).hidden = true;
  $("limit-form").reset();
  $("log-box").open = false;
  $("log").textContent = "";
  facts($("job-facts"), []);
  notes($("job-notes"), []);
  const mine = (watching = new AbortController());
  try {
    await follow(id, (told, silence) => {
      if (mine.signal.aborted) return;
      if (told) {
        tell("");
        show(told);
      } else tell(`${silence} The page goes on asking.`);
    }, mine.signal);
  } catch (error) {
    if (!mine.signal.aborted) tell(error);
  }
}

function show(told) {
  job = told;
  const name = told.source_name ?? "Job";
  const title = told.preview ? `Preview of ${told.source_name ?? "a video"}` : name;
  document.title = `${title}: ${STATES[told.status]} - SeedVR2 upscaling`;
  $("job-title").textContent = title;
  $("job-id").textContent = `Job ${told.job_id}, sent ${moment(told.submitted_at)}`;
  const status = statusWords(told);
  if ($("job-status").textContent !== status) $("job-status").textContent = status;
  $("job-error").hidden = !told.error;
  $("job-error").textContent = told.error ? trouble(told.error, told.error_remedy, told.error_code) : "";
  $("job-progress").value = told.progress;
  showStage(told);
  showFacts(told);
  notes($("job-notes"), told.notes);
  const over = ["completed", "failed", "cancelled"].includes(told.status);
  $("cancel").hidden = over || told.state === "Cancelling";
  const isStopped = told.error_code === OVER_BUDGET; // it would be stopped there again
  $("retry").hidden = isStopped || !["failed", "cancelled"].includes(told.status);
  $("limit-form").hidden = !isStopped;
  $("whole").hidden = !told.whole_with;
  if (told.status === "completed" && !picture) {
    showPicture(told.job_id, watching.signal);
    showFiles(told, watching.signal);
  }
  if ($("log-box").open) showLog();
}

// Changes rarely, so that a screen reader is not told every frame.
function statusWords(told) {
  let words = STATES[told.status];
  if (told.status === "pending" && told.position !== null)
    words += told.position ? `, ${counted(told.position, "job")} in front of it` : ", the next in line";
  if (told.status === "pending" && told.waiting_for) words += `, for ${told.waiting_for}`;
  if (told.status === "processing") {
    if (told.state === "Cancelling") words += ", being cancelled";
    if (told.phase === "wait" && told.detail) words += `, ${told.detail}`;
    if (told.segment && told.segments > 1) words += `, segment ${told.segment} of ${told.segments}`;
  }
  return words[0].toUpperCase() + words.slice(1);
}

function showStage(told) {
  if (told.status === "processing") {
    const at = STAGES.findIndex(([, phases]) => phases.includes(told.phase));
    stage = Math.max(stage, at < 0 ? 1 : at); // a wait within the work does not lead back
  }
  const done = told.status === "completed";
  [...$("stages").children].forEach((item, index) => {
    item.className = done || index < stage ? "past" : "";
    item.textContent = STAGES[index][0];
    if (item.className) item.append(element("span", " (done)", { class: "heard" }));
    if (told.status === "failed" && index === stage) {
      item.className = "broken";
      item.append(element("span", " (failed)", { class: "heard" }));
    }
    if (!done && index === stage) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  });
}

function showFacts(told) {
  const atWork = told.status === "processing";
  const rate = told.frames_per_second;
  let left = null;
  if (atWork && told.seconds_left !== null) {
    left = duration(told.seconds_left);
    if (told.seconds_left_low !== null && told.seconds_left_high !== null)
      left += ` (${duration(told.seconds_left_low)} to ${duration(told.seconds_left_high)})`;
  }
  const taken = told.taken_seconds;
  facts($("job-facts"), [
    ...pieceFacts(told.preview),
    ["Progress", `${told.progress.toFixed(0)} %`],
    ["Frames", told.frames === null ? null : `${told.frames_done ?? 0} of ${told.frames}`],
    ["Speed", rate === null ? null : `${rate.toFixed(rate < 1 ? 2 : 1)} frames/s`],
    ["Time left", left],
    ["Now", atWork && told.phase !== "wait" ? told.detail : null],
    [atWork ? "Time so far" : "Time in all", told.elapsed_seconds ? duration(told.elapsed_seconds) : null],
    ["Expected", told.estimated_seconds === null ? null : duration(told.estimated_seconds)],
    ["Taken", taken === null ? null : duration(taken)],
    ["Result", told.width ? `${told.width}x${told.height}` : null],
    ["Made by", told.engine ? told.engine + (told.device ? ` on ${told.device}` : "") : null],
    ["Seed", told.seed],
    ["GPU time", told.gpu_seconds === null ? null : duration(told.gpu_seconds)],
    ["Cost", told.cost === null ? null : told.cost.toFixed(2)],
    ["Size", told.output_size_mb === null ? null : size(told.output_size_mb)],
    ["File", told.output_path ?? told.filename],
    ["Kept until", told.expires_at && moment(told.expires_at)],
    ["Tags", told.tags.join(", ")],
    ...Object.entries(told.metadata).map(([name, value]) => [`Noted: ${name}`, value]),
  ]);
}

// Of a preview: what it shows, and what the whole film takes.
function pieceFacts(piece) {
  if (!piece) return [];
  const price = piece.whole_price === null ? "" : `, price ${piece.whole_price.toFixed(2)}`;
  return [
    ["Piece", `${clock(piece.start_seconds)} to ${clock(piece.end_seconds)}`],
    ["Made for it", `${piece.segments.length} of ${counted(piece.of_segments, "segment")}`],
    ["The whole film", `about ${duration(piece.whole_seconds)}${price}`],
  ];
}

async function act(tell, what, button = $(what), query = "") {
  tell("");
  const id = job?.job_id;
  if (!id) return;
  button.disabled = true;
  try {
    const told = await read(`${what}/${encodeURIComponent(id)}${query}`, { method: "POST" });
    if (what !== "cancel") location.hash = `#/jobs/${told.job_id}`;
    else {
      show(told);
      $("job-title").focus();
    }
  } catch (error) {
    tell(error);
  } finally {
    button.disabled = false;
  }
}

// The limits of the form, as POST /retry takes them.
function limits() {
  const given = { max_seconds: $("limit-seconds").value, max_price: $("limit-price").value };
  const set = Object.entries(given).filter(([, value]) => value);
  return new URLSearchParams(set.length ? set : [["no_limit", "true"]]);
}

// A browser plays a video that has another address than the page, and leaves the page for it. So the
// result is saved from the gateway where that has it, and else opened in a tab of its own.
async function showFiles(told, signal) {
  const files = await watch.offer(told.job_id, signal, told.preview ? "over" : "beside");
  if (signal.aborted) return;
  isHere = Boolean(files?.result);
  const what = told.preview ? "the piece" : "the result";
  $("download").textContent = isHere ? `Download ${what}` : `Open ${what} (new tab)`;
  if (isHere) $("download").removeAttribute("target");
  else $("download").target = "_blank";
  $("download").hidden = !isHere && !isWebAddress(told.download_url ?? "");
  if (!$("download").hidden) $("download").href = isHere ? files.result : told.download_url;
}

// The address is asked for anew: the one on the page ends with the gateway that gave it.
async function save(tell) {
  tell("");
  try {
    const { result } = await read(`files/${encodeURIComponent(job.job_id)}`);
    if (result) element("a", "", { href: result, download: job.filename ?? "" }).click();
    else tell("The result is no longer on the gateway's machine.");
  } catch (error) {
    tell(error);
  }
}

async function showPicture(id, signal) {
  picture = {};
  try {
    const answer = await askPatiently(`preview/${encodeURIComponent(id)}`, signal);
    const bitmap = await createImageBitmap(await answer.blob());
    if (signal.aborted) return;
    picture = { bitmap, half: Math.floor((bitmap.width - DIVIDER_PX) / 2) };
    $("picture").width = picture.half;
    $("picture").height = bitmap.height;
    $("compare").classList.toggle("whole", PICTURE.test(job.filename ?? ""));
    $("compare").hidden = false;
    draw();
  } catch {
    // Not every job has a picture; the result does not need one.
  }
}

function draw() {
  if (!picture?.bitmap) return;
  const { bitmap, half } = picture;
  const canvas = $("picture");
  const at = Math.round((half * Number($("divider").value)) / 100);
  const pen = canvas.getContext("2d");
  pen.drawImage(bitmap, bitmap.width - half, 0, half, bitmap.height, 0, 0, half, bitmap.height);
  if (at > 0) pen.drawImage(bitmap, 0, 0, at, bitmap.height, 0, 0, at, bitmap.height);
  // White between two black edges, which is seen on any picture, however much smaller it is shown.
  const line = Math.max(2, Math.round(half / 320));
  for (const [colour, width] of [["#000000", 2 * line], ["#ffffff", line]]) {
    pen.fillStyle = colour;
    const left = Math.min(half - 1.5 * line, Math.max(1.5 * line, at)) - width / 2;
    pen.fillRect(Math.round(left), 0, width, bitmap.height);
  }
}

async function showLog() {
  const now = Date.now();
  if (!$("log-box").open || !job || now - logAt < 2000) return;
  logAt = now;
  const id = job.job_id;
  const lines = [];
  try {
    for (let more = true; more; ) {
      const page = await read(`logs/${encodeURIComponent(id)}?offset=${lines.length}`);
      lines.push(...page.lines);
      more = page.more && lines.length < 5000;
    }
    if (job?.job_id !== id) return;
    const telling = lines.filter((line) => line.message !== ENDED_WELL);
    const text = telling.map((line) => `${moment(line.at)}  ${line.level}  ${line.message}`);
    $("log").textContent = text.join("\n") || "Nothing has been logged yet.";
  } catch (error) {
    $("log").textContent = error.message;
  }
}
