// Which page is shown: sign-in, a new job, one job, the list.

import { isAway, keepToken, read, token } from "./api.js";
import * as jobPage from "./job.js";
import * as listPage from "./list.js";
import * as startPage from "./start.js";
import { $, trouble } from "./words.js";

const VIEWS = ["sign-in", "new", "job", "jobs"];
const AGAIN_SECONDS = 5;
const UNKNOWN = "This token is not known here. Whoever runs the gateway can give you one.";
let ready = false;
let beginning = null; // the attempt that is under way
let waiting = null; // the timer of the next one

// Tells what went wrong as text; "" takes it away. A token that is not known leads to the sign-in.
function tell(wrong) {
  if (wrong?.status === 401) {
    signIn(token() ? UNKNOWN : "");
    return;
  }
  const told = typeof wrong === "string" ? wrong : trouble(wrong.message, wrong.remedy);
  $("problem").hidden = !told;
  if ($("problem").textContent !== told) $("problem").textContent = told;
}

function show(view, title) {
  for (const one of VIEWS) $(`view-${one}`).hidden = one !== view;
  document.title = `${title} - SeedVR2 upscaling`;
  for (const link of document.querySelectorAll("nav a")) {
    const current = link.getAttribute("href") === `#/${view}`;
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("sign-out").hidden = !token();
  $(`${view}-title`).focus();
}

function signIn(why) {
  keepToken("");
  jobPage.leave();
  listPage.leave();
  show("sign-in", "Sign in");
  tell(why);
  $("token").focus();
}

async function route() {
  jobPage.leave();
  listPage.leave();
  tell("");
  if (!ready && !(await begin())) return;
  const job = /^#\/jobs\/([\w-]+)$/.exec(location.hash);
  if (job) {
    show("job", "Job");
    jobPage.open(job[1], tell);
  } else if (location.hash === "#/jobs") {
    show("jobs", "Jobs");
    listPage.open(tell);
  } else show("new", "New job");
}

// Asks once whether we may ask at all; only then the form is made from the API's own description.
// One attempt at a time: the form must not be made twice.
function begin() {
  beginning ??= attempt().finally(() => { beginning = null; });
  return beginning;
}

async function attempt() {
  clearTimeout(waiting);
  try {
    await read("jobs?limit=1");
    await startPage.prepare(tell);
    jobPage.prepare(tell);
    listPage.prepare(tell);
    ready = true;
    return true;
  } catch (error) {
    if (error.status === 401) signIn(token() ? UNKNOWN : "");
    else {
      if ($("view-new").hidden) show("new", "New job");
      tell(error);
      // The form is made once there is an answer; nobody has to load the page again for that.
      if (isAway(error)) waiting = setTimeout(beginAgain, 1000 * AGAIN_SECONDS);
    }
    return false;
  }
}

async function beginAgain() {
  if (!ready && (await begin())) route();
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken($("token").value.trim());
  $("token").value = "";
  route();
});
$("sign-out").addEventListener("click", () => signIn(""));
// The link to the content would change the address that says which page is shown.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});
window.addEventListener("hashchange", route);
route();
