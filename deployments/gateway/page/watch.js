// The source and the result, played in step: side by side, or in one place with a divider between
// them. The result's clock leads.

import { askPatiently } from "./api.js";
import { $ } from "./words.js";

const APART_SECONDS = 0.04; // a frame at 25 frames/s: what may lie between the two
const PLAYING_APART_SECONDS = 0.12; // while both play, a jump disturbs more than a short lag

const STEP_SECONDS = 0.1;

let addresses = null; // {before, after}
let frame = 0;

const before = () => $("video-before");
const after = () => $("video-after");

export function prepare() {
  $("watch-load").addEventListener("click", load);
  $("watch-how").addEventListener("change", arrange);
  $("watch-divider").addEventListener("input", arrange);
  $("watch-play").addEventListener("click", () => (after().paused ? play() : pause()));
  $("watch-time").addEventListener("input", () => {
    pause();
    seek(Number($("watch-time").value));
  });
  for (const [id, step] of [["watch-back", -1], ["watch-on", 1]])
    $(id).addEventListener("click", () => {
      pause();
      seek(after().currentTime + step * STEP_SECONDS);
    });
  after().addEventListener("loadedmetadata", () => {
    $("watch-time").max = after().duration;
    showTime();
  });
  after().addEventListener("seeked", () => showTime());
  after().addEventListener("ended", pause);
  for (const video of [before(), after()]) {
    video.addEventListener("error", () => {
      if (!video.getAttribute("src")) return; // it was taken away
      const which = video === before() ? "source" : "result";
      $("watch-how").value = "beside"; // whoever can be played is seen whole
      arrange();
      tell(`This browser cannot play the ${which}. Its address may be too old, or its format.`);
      if (video === after()) $("watch-controls").hidden = true;
    });
  }
}

// Shows a completed job's report and the offer to load its videos, once somebody asks for them.
// `how` they are shown at first: "beside" each other, or one "over" the other. Resolves to the
// addresses of the job's files; null where nobody tells them.
export async function offer(id, signal, how) {
  leave();
  let found;
  try {
    found = await (await askPatiently(`files/${encodeURIComponent(id)}`, signal)).json();
  } catch {
    return null; // the download is there all the same
  }
  if (signal.aborted) return null;
  $("report").hidden = !found.report;
  if (found.report) $("report").href = found.report;
  if (!found.after) return found;
  addresses = found;
  $("watch").hidden = false;
  $("watch-how").value = how;
  tell(found.before ? "" : "The source is not in the work directory, so the result is alone.");
  $("watch-before").hidden = !found.before;
  $("watch-load").hidden = false;
  return found;
}

export function leave() {
  cancelAnimationFrame(frame);
  addresses = null;
  for (const video of [before(), after()]) {
    video.pause();
    video.removeAttribute("src");
    video.load();
  }
  for (const id of ["report", "watch", "watch-controls", "watch-pair", "watch-way"])
    $(id).hidden = true;
}

function tell(words) {
  $("watch-told").textContent = words;
}

function load() {
  if (!addresses) return;
  if (addresses.before) before().src = addresses.before;
  after().src = addresses.after;
  for (const id of ["watch-controls", "watch-pair"]) $(id).hidden = false;
  $("watch-load").hidden = true;
  $("watch-way").hidden = !addresses.before;
  arrange();
  $("watch-play").focus();
}

// Puts the two beside each other, or the source's left part over the result.
function arrange() {
  const over = Boolean(addresses?.before) && $("watch-how").value === "over";
  $("watch-pair").classList.toggle("over", over);
  $("watch-split").hidden = !over;
  $("watch-pair").style.setProperty("--at", `${$("watch-divider").value}%`);
}

async function play() {
  if (after().ended) seek(0);
  try {
    const both = [after().play()];
    if (addresses?.before && !before().error) both.push(before().play());
    await Promise.all(both);
    $("watch-play").textContent = "Pause";
    follow();
  } catch {
    pause(); // taken away, or refused by the browser
  }
}

function pause() {
  cancelAnimationFrame(frame);
  for (const video of [before(), after()]) video.pause();
  $("watch-play").textContent = "Play";
  keepInStep(APART_SECONDS / 2);
  showTime();
}

function seek(seconds) {
  const time = Math.min(Math.max(0, seconds), after().duration || 0);
  for (const video of [before(), after()]) if (video.src) video.currentTime = time;
  showTime(time);
}

function follow() {
  keepInStep(PLAYING_APART_SECONDS);
  showTime();
  if (!after().paused) frame = requestAnimationFrame(follow);
}

function keepInStep(most) {
  if (!before().src || before().readyState === 0 || before().seeking) return;
  if (Math.abs(before().currentTime - after().currentTime) > most)
    before().currentTime = after().currentTime;
}

function showTime(time = after().currentTime) {
  $("watch-time").value = time;
  const told = `${time.toFixed(1)} of ${(after().duration || 0).toFixed(1)} s`;
  $("watch-time").setAttribute("aria-valuetext", told);
  if ($("watch-at").textContent !== told) $("watch-at").textContent = told;
}
