// The list of jobs, with a search over those that are loaded.

import { read } from "./api.js";
import { $, STATES, element, moment } from "./words.js";

const PAGE = 100;
const AGAIN_SECONDS = 5;

let loaded = [];
let wanted = PAGE;
let timer = null;

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
  timer = setInterval(() => load(tell), AGAIN_SECONDS * 1000);
}

export function leave() {
  clearInterval(timer);
}

async function load(tell) {
  const state = $("state").value;
  const found = [];
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
  }
}

function show() {
  const words = $("search").value.trim().toLowerCase();
  const fits = (job) => `${job.source_name ?? ""} ${job.job_id}`.toLowerCase().includes(words);
  const found = loaded.filter(fits);
  const told = `${found.length} of ${loaded.length} jobs`;
  if ($("jobs-told").textContent !== told) $("jobs-told").textContent = told;
  const items = found.map((job) => {
    const item = element("li");
    const name = job.source_name ?? job.filename ?? "a video";
    item.append(element("a", name, { href: `#/jobs/${encodeURIComponent(job.job_id)}` }));
    const words = [STATES[job.status], job.resolution, job.engine, moment(job.submitted_at)];
    if (job.status === "processing") words.splice(1, 0, `${job.progress.toFixed(0)} %`);
    item.append(element("p", words.filter(Boolean).join(" · ")));
    return item;
  });
  const focused = document.activeElement?.getAttribute?.("href");
  $("jobs-list").replaceChildren(...items);
  // The list is made anew every few seconds; whoever is on a link stays on it.
  if (focused?.startsWith("#/jobs/")) {
    [...$("jobs-list").querySelectorAll("a")].find((a) => a.getAttribute("href") === focused)?.focus();
  }
}
