// What the pages do beside showing: the live tail, and the verification. Text is only ever set as
// text; everything works without this file but these two.
"use strict";

const cell = (row, text, kind, path) => {
  const made = row.insertCell();
  made.className = kind || "";
  if (path) {
    const anchor = document.createElement("a");
    anchor.href = path;
    anchor.textContent = text;
    made.append(anchor);
  } else {
    made.textContent = text;
  }
  return made;
};

const size = (bytes) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) { bytes /= 1024; at += 1; }
  return `${at ? bytes.toFixed(1) : bytes} ${units[at]}`;
};

const badge = (made, entry) => {
  const mark = document.createElement("span");
  const bad = entry.outcome === "refused" || entry.kind === "denied";
  mark.className = `badge ${bad ? "bad" : entry.outcome === "failed" ? "warn" : entry.outcome === "fetched" || entry.kind === "attestation" ? "good" : "plain"}`;
  mark.textContent = entry.outcome === "fetched" ? String(entry.status) : entry.outcome || entry.kind;
  made.append(mark);
};

const add = (body, entry) => {
  const row = body.insertRow(0);
  row.className = "fresh";
  cell(row, String(entry.index), "number", `/audit/entry/${entry.index}`);
  const at = entry.at_s === null ? "" : new Date(entry.at_s * 1000).toISOString();
  cell(row, at.slice(0, 19).replace("T", " "), "time");
  badge(cell(row, ""), entry);
  const request = entry.method ? `${entry.method} ${entry.url}` : entry.note || entry.session;
  cell(row, request, "request", `/audit/entry/${entry.index}`);
  cell(row, entry.method ? size(entry.size_bytes) : "", "number");
  const hash = entry.body && entry.outcome === "fetched" ? entry.body : "";
  cell(row, hash.slice(0, 12), "hash mono", hash ? `/audit/artefact/${hash}` : "");
  cell(row, entry.identity || entry.action.slice(0, 12), "", entry.action ? `/audit/action/${entry.action}` : "");
  while (body.rows.length > 200) body.deleteRow(-1);
};

const live = document.querySelector("[data-live]");
if (live) {
  const body = document.querySelector("#entries tbody");
  const state = document.querySelector("#live-state");
  let source = null;
  let come = 0;
  const stop = () => { if (source) source.close(); source = null; };
  const say = (text) => { state.textContent = text; };
  const start = () => {
    source = new EventSource(live.dataset.live);
    source.onopen = () => say(come ? `live: ${come} new` : "live");
    source.onmessage = (event) => {
      add(body, JSON.parse(event.data));
      come += 1;
      say(`live: ${come} new`);
    };
    source.onerror = () => say("not connected; trying again");
  };
  live.hidden = false;
  live.addEventListener("click", () => {
    const on = live.getAttribute("aria-pressed") === "true";
    live.setAttribute("aria-pressed", String(!on));
    live.textContent = on ? "Follow" : "Stop following";
    if (on) { stop(); say("stopped"); } else { start(); }
  });
  if (live.getAttribute("aria-pressed") === "true") start();
  window.addEventListener("pagehide", stop);
}

const check = document.querySelector("[data-verify]");
if (check) {
  const bar = document.querySelector("#verify-progress");
  const state = document.querySelector("#verify-state");
  check.hidden = false;
  check.addEventListener("click", () => {
    check.disabled = true;
    bar.hidden = false;
    const source = new EventSource(check.dataset.verify);
    source.addEventListener("progress", (event) => {
      const told = JSON.parse(event.data);
      bar.max = Math.max(1, told.size);
      bar.value = told.entries;
      state.textContent = `${told.entries} of ${told.size} entries`;
    });
    source.addEventListener("done", () => { source.close(); window.location.reload(); });
    source.onerror = () => {
      source.close();
      check.disabled = false;
      state.textContent = "the verification did not come to its end; try again";
    };
  });
}
