// The form beside a plan that asks for a preview: how long it is, and where in the film it begins.

import { $, clock, secondsOf } from "./words.js";

let film = 0; // seconds

// What is wrong is told beside the field, which a long form keeps far from the top of the page.
export function prepare(make) {
  $("piece-where").addEventListener("change", show);
  $("piece-length").addEventListener("change", show);
  $("piece-at").addEventListener("input", () => {
    const at = secondsOf($("piece-at").value);
    if (at !== null) $("piece-slide").value = at;
    show();
  });
  $("piece-slide").addEventListener("input", () => {
    $("piece-at").value = clock(Number($("piece-slide").value));
    show();
  });
  $("piece").addEventListener("submit", (event) => {
    event.preventDefault();
    if (fault()) $("piece-at").focus();
    else make(wanted());
  });
}

// Offers a piece of the film of this plan; of a single picture there is none.
export function offer(plan) {
  film = plan.duration_seconds;
  $("piece").hidden = plan.frames < 2;
  const lengths = [...$("piece-length").options];
  lengths.forEach((one, index) => {
    one.hidden = one.disabled = index > 0 && Number(one.value) >= film;
  });
  const last = lengths.filter((one) => !one.disabled).at(-1);
  if (long() > Number(last.value)) $("piece-length").value = last.value;
  $("piece-slide").max = Math.max(0, (Math.ceil(10 * film) - 1) / 10); // the last tenth of it
  show();
}

const chosen = () => $("piece-where").value === "own";
const long = () => Number($("piece-length").value);

function fault() {
  if (!chosen()) return "";
  const at = secondsOf($("piece-at").value);
  if (at === null) return "Where the piece begins is no time; write it like 0:42.";
  return at < film ? "" : `The film ends at ${clock(film)}; choose an earlier place.`;
}

// As `preview` of a request has it.
function wanted() {
  return chosen() ? `${long()}s@${secondsOf($("piece-at").value)}` : `${long()}s`;
}

function show() {
  $("piece-place").hidden = !chosen();
  const at = secondsOf($("piece-at").value);
  const wrong = fault();
  $("piece-at").setAttribute("aria-invalid", String(Boolean(wrong)));
  $("piece-slide").setAttribute("aria-valuetext", clock(Number($("piece-slide").value)));
  let told = "";
  if (chosen())
    told = wrong || `From ${clock(at)} to ${clock(Math.min(film, at + long()))} of ${clock(film)}.`;
  $("piece-told").classList.toggle("error", Boolean(wrong));
  if ($("piece-told").textContent !== told) $("piece-told").textContent = told;
}
