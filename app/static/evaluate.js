// The Evaluate tab: the list of reports, one report, or two side by side. What the server sends is whole HTML with every word
// escaped; here it is put in place, filtered, sorted and asked for.
"use strict";

const BASE = new URL("../evaluate/", import.meta.url).href;

export async function ask(path) {
  let answer;
  try {
    answer = await fetch(BASE + path, { headers: { "X-MultiMood": "1" }, credentials: "same-origin" });
  } catch {
    throw new Error("MultiMood cannot be reached. Try again in a moment.");
  }
  if (!answer.ok) {
    const found = await answer.json().catch(() => ({}));
    throw new Error(found.error || `Something went wrong (${answer.status}); try again.`);
  }
  return answer;
}

export const html = async (path) => (await (await ask(path)).json()).html;

async function save(path) {
  const answer = await ask(path);
  const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition"))[1];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// An error stands where its result would, and is read out.
export function told(place, text) {
  const line = document.createElement("p");
  line.className = "mm-problem";
  line.setAttribute("role", "alert");
  line.textContent = text;
  place.replaceChildren(line);
}

export function wait(place, text) {
  const line = document.createElement("p");
  line.className = "mm-faint";
  line.setAttribute("role", "status");
  line.textContent = text;
  place.replaceChildren(line);
}

// Calls `begin` when the place is first seen, and hands over what is clicked: who never opens a tab asks for nothing.
export function tab(root, begin) {
  let begun = false;
  new IntersectionObserver((seen) => {
    if (begun || !seen.some((one) => one.isIntersecting)) return;
    begun = true;
    begin();
  }).observe(root);
}

// Fills a place with what is asked for; of several that were asked for, the last one stays.
const asked = new WeakMap();
export async function fill(place, path, waiting) {
  const mine = {};
  asked.set(place, mine);
  wait(place, waiting);
  try {
    const found = await html(path);
    if (asked.get(place) !== mine) return false;
    place.innerHTML = found;
    return true;
  } catch (error) {
    if (asked.get(place) === mine) told(place, error.message);
    return false;
  }
}

export async function open(place, path, waiting) {
  const opener = document.activeElement;
  if (!await fill(place, path, waiting)) return;
  place.focus({ preventScroll: true });
  place.scrollIntoView({ block: "start" });
  place.querySelector("[data-close]").addEventListener("click", () => {
    place.replaceChildren();
    if (opener?.isConnected) opener.focus();
  });
}

const root = document.querySelector("#mm-evaluate");
const find = (selector) => root.querySelector(selector);
let picked = []; // ids, the earlier tick first

function show() {
  const rows = [...root.querySelectorAll(".mm-e-list tbody tr")];
  const wanted = [...root.querySelectorAll("[data-filter]")].filter((one) => one.value).map((one) => [one.dataset.filter, one.value]);
  const words = find("[data-words]").value.toLowerCase().split(/\s+/);
  for (const row of rows) {
    const text = row.textContent.toLowerCase() + (row.querySelector("code")?.title || "");
    row.hidden = !(wanted.every(([name, value]) => row.dataset[name] === value) && words.every((word) => text.includes(word)));
  }
  find("[data-count]").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
}

function sort(button) {
  const head = button.closest("th"), column = Number(button.dataset.sort);
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of root.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (row) => { const cell = row.cells[column]; return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v); };
  const body = find(".mm-e-list tbody");
  const rows = [...body.rows].sort((a, b) => { const x = value(a), y = value(b); return typeof x === "number" ? x - y : x.localeCompare(y); });
  body.append(...(down ? rows.reverse() : rows));
}

function pick(box) {
  picked = picked.filter((id) => id !== box.dataset.pick);
  if (box.checked) picked.push(box.dataset.pick);
  while (picked.length > 2) picked.shift();
  for (const one of root.querySelectorAll("[data-pick]")) one.checked = picked.includes(one.dataset.pick);
  const names = picked.map((id) => find(`[data-open="${id}"]`)).map((one) => `${one.textContent} (${one.closest("tr").dataset.system})`);
  find("[data-compare]").disabled = picked.length !== 2;
  find("[data-picked]").textContent = names.length === 2 ? `A: ${names[0]}, B: ${names[1]}` : names.length ? `A: ${names[0]}; tick a second one` : "Tick two reports to compare them, or press a name to open one.";
}

async function list() {
  picked = [];
  await fill(root, "reports", "Reports are being read.");
}

root.addEventListener("click", async ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  const { sort: column, open: id, file } = button.dataset;
  if (column) sort(button);
  else if (id) await open(find("[data-document]"), `report/${id}`, "The report is being drawn.");
  else if ("compare" in button.dataset) await open(find("[data-document]"), `compare/${picked.join("/")}`, "The two are being compared; the bootstrap takes some seconds.");
  else if ("again" in button.dataset) await list();
  else if (file) {
    button.disabled = true;
    try { await save(file); } catch (error) { told(find("[data-document]"), error.message); }
    button.disabled = false;
  }
});
root.addEventListener("change", ({ target }) => { if (target.dataset.pick) pick(target); else if (target.dataset.filter) show(); });
root.addEventListener("input", ({ target }) => { if ("words" in target.dataset) show(); });
root.addEventListener("submit", (event) => event.preventDefault());
tab(root, list);
