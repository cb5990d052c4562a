// The Runs tab: checkpoints with their lineage and card, and curves of one or two runs, drawn anew while one goes on.
"use strict";
import { ask, fill, open, tab, told, wait } from "./evaluate.js";

const EVERY = 10_000; // ms between two looks at a run that goes on
const root = document.querySelector("#mm-runs");
const find = (selector) => root.querySelector(selector);
let picked = [], seen = "", live = false, timer = 0, number = 0;

async function draw(again = false) {
  clearTimeout(timer);
  const place = find("[data-curves]"), mine = ++number;
  if (!place) return;
  live = false;
  if (!picked.length) { place.replaceChildren(); return; }
  const query = new URLSearchParams(picked.map((id) => ["run", id]));
  query.set("window", find("[data-window]").value);
  if (find("[data-everything]").checked) query.set("everything", "1");
  if (again) query.set("seen", seen);
  else if (!place.firstElementChild) wait(place, "The curves are being drawn.");
  place.setAttribute("aria-busy", "true");
  try {
    const found = await (await ask(`curves?${query}`)).json();
    if (mine !== number) return;
    if (!found.same) {
      place.innerHTML = found.html;
      seen = found.seen;
    }
    live = found.live;
    if (live) timer = setTimeout(follow, EVERY);
  } catch (error) {
    if (mine === number) told(place, error.message);
  }
  place.removeAttribute("aria-busy");
}

// A page that nobody looks at asks for nothing.
function follow() {
  clearTimeout(timer);
  if (root.checkVisibility() && !document.hidden) draw(true);
  else timer = setTimeout(follow, EVERY);
}
document.addEventListener("visibilitychange", () => { if (live) follow(); });

function pick(box) {
  picked = picked.filter((id) => id !== box.dataset.run);
  if (box.checked) picked.push(box.dataset.run);
  while (picked.length > 2) picked.shift();
  for (const one of root.querySelectorAll("[data-run]")) one.checked = picked.includes(one.dataset.run);
  const names = picked.map((id) => find(`[data-run="${id}"]`).getAttribute("aria-label").replace("show ", ""));
  find("[data-picked]").textContent = names.length ? names.join(" beside ") : "Tick one or two runs.";
  draw();
}

async function list() {
  clearTimeout(timer);
  number += 1;
  picked = [];
  await fill(root, "runs", "Runs are being read.");
}

let soon = 0;
root.addEventListener("input", ({ target }) => {
  if (!("window" in target.dataset)) return;
  find("[data-window-shown]").textContent = target.value;
  clearTimeout(soon);
  soon = setTimeout(() => draw(), 300);
});
root.addEventListener("change", ({ target }) => { if (target.dataset.run) pick(target); else if ("everything" in target.dataset) draw(); });
root.addEventListener("click", async ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  if (button.dataset.checkpoint) await open(find("[data-lineage]"), `checkpoint/${button.dataset.checkpoint}`, "The files are being read and hashed.");
  else if ("again" in button.dataset) await list();
});
root.addEventListener("submit", (event) => event.preventDefault());
tab(root, list);
