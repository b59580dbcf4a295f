// Sends a file by tus 1.0 (https://tus.io): what has come is kept, so that after a cut, or after this
// page was closed, the same file goes on where it stopped.

import { Refused, ask, headers, parsed } from "./api.js";

const VERSION = { "Tus-Resumable": "1.0.0" };
const PIECE = 64 * 2 ** 20; // a proxy that buffers loses no more than this
const PATIENCE = 15 * 60; // seconds without any progress
const LONGEST = 30; // seconds between two attempts
const SILENT = 60; // seconds without a byte going out: a dead connection may not tell that it is
const ANSWER = 600; // seconds until the gateway answers: it may have to read the whole file once

// Resolves to what a request says in `video_url`. `onShare` gets the share that has gone out, and
// `onWait` a sentence while the gateway is away; `stopped` says whether nobody wants it any more.
export async function sendFile(file, { onShare, onWait, stopped }) {
  const upload = { address: null, heard: Date.now() };
  let wait = 1;
  for (;;) {
    const before = upload.offset ?? 0;
    try {
      return await goOn(upload, file, onShare, stopped);
    } catch (error) {
      if (stopped()) return null;
      if (error.status === 404 || error.status === 410) upload.address = null;
      else if (!passes(error.status)) throw error;
      if ((upload.offset ?? 0) > before) {
        upload.heard = Date.now();
        wait = 1;
      }
      if (Date.now() - upload.heard > 1000 * PATIENCE) throw error;
      onWait(`${error.message} What was sent is kept; it goes on by itself.`);
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter || wait)));
      wait = Math.min(LONGEST, 2 * wait);
    }
  }
}

const passes = (status) => [0, 400, 408, 409, 502, 503, 504].includes(status);

async function goOn(upload, file, onShare, stopped) {
  if (upload.address === null) upload.address = await begin(file);
  const told = await ask(upload.address, { method: "HEAD", more: VERSION, within: ANSWER });
  upload.offset = Number(told.headers.get("Upload-Offset"));
  let reference = told.headers.get("Upload-Video-Url");
  while (!reference && !stopped()) {
    const answer = await append(upload, file, onShare, stopped);
    upload.offset = Number(answer.getResponseHeader("Upload-Offset"));
    reference = answer.getResponseHeader("Upload-Video-Url");
  }
  onShare(1);
  return reference && decodeURIComponent(reference);
}

async function begin(file) {
  const fingerprint = `${file.name}|${file.size}|${file.lastModified}`;
  const metadata = `filename ${base64(file.name)},fingerprint ${base64(fingerprint)}`;
  const more = { ...VERSION, "Upload-Length": String(file.size), "Upload-Metadata": metadata };
  const answer = await ask("uploads", { method: "POST", more });
  return answer.headers.get("Location");
}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}

// Only XMLHttpRequest tells how much has gone out.
function append(upload, file, onShare, stopped) {
  return new Promise((resolve, reject) => {
    let timer;
    const within = (seconds) => {
      clearTimeout(timer);
      timer = setTimeout(() => request.abort(), 1000 * seconds);
    };
    const broke = () => reject(new Refused(0, "The connection to the gateway broke.", 0));
    const request = new XMLHttpRequest();
    request.open("PATCH", upload.address);
    const more = { ...VERSION, "Content-Type": "application/offset+octet-stream" };
    more["Upload-Offset"] = String(upload.offset);
    for (const [name, value] of Object.entries(headers(more))) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => {
      within(SILENT);
      if (stopped()) request.abort();
      else onShare((upload.offset + event.loaded) / file.size);
    };
    request.upload.onload = () => within(ANSWER);
    request.onerror = request.onabort = broke;
    request.onloadend = () => clearTimeout(timer);
    request.onload = () => {
      if (request.status === 204) resolve(request);
      else reject(parsed(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    };
    within(SILENT);
    request.send(file.slice(upload.offset, upload.offset + PIECE));
  });
}
