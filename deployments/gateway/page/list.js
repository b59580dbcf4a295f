// The list of jobs, with a search over those that are loaded, and a small picture of each result.

import { ask, read } from "./api.js";
import { $, STATES, counted, element, moment } from "./words.js";

const PAGE = 100;
const AGAIN_SECONDS = 5;

let loaded = [];
let wanted = PAGE;
let timer = null;
let asking = 0; // questions for the list that are not answered yet
const pictures = new Map(); // job's id -> its canvas; null while it is asked for, or has none
const DIVIDER_PX = 4; // between the two halves of a job's picture
const MOST_PICTURES = 400;

// Pictures are asked for when they come into view.
const inView = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    inView.unobserve(entry.target);
    paint(entry.target);
  }
});

export function prepare(tell) {
  $("search-form").addEventListener("submit", (event) => event.preventDefault());
  $("search").addEventListener("input", show);
  $("state").addEventListener("change", () => {
    wanted = PAGE;
    load(tell);
  });
  $("older").addEventListener("click", () => {
    wanted += PAGE;
    load(tell);
  });
}

export function open(tell) {
  leave();
  load(tell);
  // While the gateway is silent, no more questions are put on top of the first.
  timer = setInterval(() => asking || load(tell), AGAIN_SECONDS * 1000);
}

export function leave() {
  clearInterval(timer);
}

async function load(tell) {
  const state = $("state").value;
  const found = [];
  asking += 1;
  try {
    let more = true;
    while (more && found.length < wanted) {
      const query = new URLSearchParams({ limit: PAGE, offset: found.length });
      if (state) query.set("status", state);
      const page = await read(`jobs?${query}`);
      found.push(...page.jobs);
      more = page.jobs.length === PAGE;
    }
    if (state !== $("state").value) return;
    loaded = found;
    $("older").hidden = !more;
    tell("");
    show();
  } catch (error) {
    tell(error);
  } finally {
    asking -= 1;
  }
}

function show() {
  const words = $("search").value.trim().toLowerCase();
  const fits = (job) => searched(job).toLowerCase().includes(words);
  const found = loaded.filter(fits);
  const none = $("state").value ? "No jobs of this state." : "No jobs of yours yet.";
  const told = loaded.length ? `${found.length} of ${counted(loaded.length, "job")}` : none;
  if ($("jobs-told").textContent !== told) $("jobs-told").textContent = told;
  const items = found.map((job) => {
    const item = element("li");
    const about = element("div");
    item.append(thumbnail(job), about);
    const name = job.source_name ?? job.filename ?? "a video";
    about.append(element("a", name, { href: `#/jobs/${encodeURIComponent(job.job_id)}` }));
    const words = [STATES[job.status], job.preview && "preview", job.resolution, job.engine, moment(job.submitted_at)];
    if (job.status === "processing") words.splice(1, 0, `${job.progress.toFixed(0)} %`);
    words.push(...job.tags);
    about.append(element("p", words.filter(Boolean).join(" · ")));
    return item;
  });
  const focused = document.activeElement?.getAttribute?.("href");
  $("jobs-list").replaceChildren(...items);
  // The list is made anew every few seconds; whoever is on a link stays on it.
  if (focused?.startsWith("#/jobs/")) {
    [...$("jobs-list").querySelectorAll("a")].find((a) => a.getAttribute("href") === focused)?.focus();
  }
}

function searched(job) {
  return [job.source_name, job.job_id, ...job.tags, ...Object.values(job.metadata)].join(" ");
}

// The name beside it says which job it is, so it is no news to a screen reader.
function thumbnail(job) {
  const known = pictures.get(job.job_id);
  if (known) return known;
  const canvas = element("canvas", undefined, { width: 192, height: 108, "aria-hidden": "true" });
  canvas.dataset.job = job.job_id;
  if (job.status === "completed" && known === undefined) inView.observe(canvas);
  return canvas;
}

// Draws the middle of the result into a small canvas, which later lists show again.
async function paint(canvas) {
  const id = canvas.dataset.job;
  if (pictures.has(id)) return;
  pictures.set(id, null);
  if (pictures.size > MOST_PICTURES) pictures.delete(pictures.keys().next().value);
  try {
    const answer = await ask(`preview/${encodeURIComponent(id)}`);
    const bitmap = await createImageBitmap(await answer.blob());
    const half = Math.floor((bitmap.width - DIVIDER_PX) / 2);
    const height = Math.min(bitmap.height, Math.round((half * canvas.height) / canvas.width));
    const width = Math.round((height * canvas.width) / canvas.height);
    const [x, y] = [bitmap.width - half + (half - width) / 2, (bitmap.height - height) / 2];
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, x, y, width, height, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    pictures.set(id, canvas);
    const shown = [...$("jobs-list").querySelectorAll("canvas")].find((one) => one.dataset.job === id);
    if (shown && shown !== canvas) shown.replaceWith(canvas);
  } catch (error) {
    if (error.status !== 404) pictures.delete(id); // not every job has one; others are asked again
  }
}
