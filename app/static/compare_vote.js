// The vote on a blind comparison, by mouse or keys, and the ranking that votes give.
"use strict";
import { ask, button, root, save, watch } from "./compare.js";
import { h } from "./element.js";

const DRAFT = "multimood.compare.vote"; // what is chosen and not locked yet outlives a reload
const draft = (id) => { try { const found = JSON.parse(sessionStorage.getItem(DRAFT)); return found?.id === id ? found : null; } catch { return null; } };
const keep = (state) => { try { sessionStorage.setItem(DRAFT, JSON.stringify(state)); } catch { /* a page that may keep nothing */ } };

let now = null; // {id, letters, criteria, ranks, comment, row, cell}: row and cell are what the next key decides

export function voting(found, choices) {
  const letters = found.columns.filter((column) => !column.problem).map((column) => column.key);
  if (letters.length < 2) return h("p", { class: "mm-c-note" }, "Fewer than two systems gave a reply: there is nothing to vote on. Compare again.");
  const before = draft(found.id);
  now = { id: found.id, letters, criteria: choices.criteria, ranks: before?.ranks || {}, comment: before?.comment || "", row: 0, cell: 0 };
  const comment = h("input", { id: "mm-c-comment", maxlength: 4000, placeholder: "comment (C)", "aria-label": "comment", value: now.comment, oninput: () => { now.comment = comment.value; keep(now); } });
  const stored = h("input", { type: "checkbox", checked: found.turn.source === "item" });
  const rows = choices.criteria.map((one, i) => h("div", { class: "mm-c-criterion", role: letters.length === 2 ? "radiogroup" : "group", "aria-label": one.name, "data-row": i, "data-key": one.key },
    h("span", { class: "mm-c-criterion-name", title: one.definition }, one.name), letters.length === 2 ? pair(i) : places(i)));
  const made = h("section", { id: "mm-c-vote", "aria-label": "your vote" }, h("h3", {}, "Your vote"),
    h("p", { class: "mm-c-note" }, letters.length === 2 ? "Keys: 1, 2, 3 choose, ↑ ↓ another row, C comment, Enter locks."
      : `Give each system its place; the same place is a tie. Keys: 1 to ${letters.length} give the marked system's place, arrows mark another, C comment, Enter locks.`), rows,
    h("div", { class: "mm-c-end" }, comment, button("Lock the vote", async () => {
      await ask(`comparison/${now.id}/vote`, { ranks: now.ranks, comment: comment.value, keep: stored.checked });
      try { sessionStorage.removeItem(DRAFT); } catch { /* nothing was kept */ }
      await watch(now.id);
      root().querySelector(".mm-c-columns")?.scrollIntoView({ block: "nearest" });
    }, "mm-solid", { id: "mm-c-lock" })),
    found.turn.source === "live" ? "" : h("label", { class: "mm-c-tick" }, stored, h("span", {}, "Keep the words with the vote", h("small", {}, " names and numbers taken out as far as patterns find them; needed for preference pairs. Without, only the verdict is kept."))));
  queueMicrotask(mark);
  return made;
}

const PAIR = [[1, 2], [1, 1], [2, 1]];
function pair(row) {
  const [a, b] = now.letters, texts = [`${a} better`, "tie", `${b} better`];
  return texts.map((text, j) => h("button", { type: "button", role: "radio", tabindex: j ? -1 : 0, "data-choice": j, onclick: () => choose(row, j) }, h("kbd", { "aria-hidden": "true" }, String(j + 1)), text));
}
function choose(row, j) {
  const key = now.criteria[row].key;
  now.ranks[key] = { [now.letters[0]]: PAIR[j][0], [now.letters[1]]: PAIR[j][1] };
  now.row = Math.min(row + 1, now.criteria.length - 1);
  keep(now);
  mark();
}

function places(row) {
  return now.letters.map((letter, cell) => h("label", {}, letter, " ", h("select", { "aria-label": `place of ${letter}`, onchange: (event) => {
    Object.assign(now, { row, cell });
    rank(Number(event.target.value) || undefined, false);
  } }, h("option", { value: "" }, "–"), now.letters.map((_, i) => h("option", { value: i + 1 }, `${i + 1}`)))));
}
function rank(place, on = true) { // of the marked system; by a key, it is the next one's turn then
  const key = now.criteria[now.row].key;
  now.ranks[key] = { ...now.ranks[key], [now.letters[now.cell]]: place };
  if (on) step(1);
  keep(now);
  mark();
}
function step(by) {
  const n = now.letters.length, at = Math.max(0, Math.min(n * now.criteria.length - 1, n * now.row + now.cell + by));
  Object.assign(now, { row: Math.floor(at / n), cell: at % n });
}

function mark() {
  root().querySelectorAll(".mm-c-criterion").forEach((row, i) => {
    const ranks = now.ranks[row.dataset.key], [a, b] = now.letters;
    row.classList.toggle("mm-here", i === now.row);
    row.querySelectorAll("button").forEach((one, j) => one.setAttribute("aria-checked", String(Boolean(ranks) && ranks[a] === PAIR[j][0] && ranks[b] === PAIR[j][1])));
    row.querySelectorAll("select").forEach((one, j) => {
      one.value = ranks?.[now.letters[j]] || "";
      one.parentElement.classList.toggle("mm-here", i === now.row && j === now.cell);
    });
  });
}

addEventListener("keydown", (event) => {
  const vote = document.querySelector("#mm-c-vote");
  if (!vote?.checkVisibility() || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const field = event.target.closest?.("input, textarea, select");
  if (field) { if (field.id === "mm-c-comment" && /^(Enter|Escape)$/.test(event.key)) { event.preventDefault(); field.blur(); } return; }
  const key = event.key.toLowerCase(), last = now.criteria.length - 1, two = now.letters.length === 2;
  if (two && /^[123]$/.test(key)) { event.preventDefault(); choose(now.row, Number(key) - 1); }
  else if (!two && /^[1-9]$/.test(key) && Number(key) <= now.letters.length) { event.preventDefault(); rank(Number(key)); }
  else if (key === "arrowdown") { event.preventDefault(); now.row = Math.min(last, now.row + 1); mark(); }
  else if (key === "arrowup") { event.preventDefault(); now.row = Math.max(0, now.row - 1); mark(); }
  else if (!two && (key === "arrowright" || key === "arrowleft")) { event.preventDefault(); step(key === "arrowright" ? 1 : -1); mark(); }
  else if (key === "c") { event.preventDefault(); vote.querySelector("#mm-c-comment").focus(); }
  else if (key === "enter" && !event.target.closest?.("button, summary, a")) { event.preventDefault(); vote.querySelector("#mm-c-lock").click(); }
});

// -- the ranking -------------------------------------------------------------------------------------------------------

const signed = (value) => (value == null ? "?" : `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}`);

function strengths(row) {
  if (!row.strengths.length) return h("p", { class: "mm-c-note" }, `No ranking: ${row.why}.`);
  const ends = row.strengths.flatMap((one) => [one.value, one.low ?? one.value, one.high ?? one.value]);
  const low = Math.min(...ends, -0.5), high = Math.max(...ends, 0.5), at = (value) => `${(100 * (value - low)) / (high - low)}%`;
  return row.strengths.map((one) => h("div", { class: "mm-c-strength" }, h("span", {}, one.system), h("span", { class: "mm-c-axis", "aria-hidden": "true" }, h("i", { class: "mm-c-zero", style: `left:${at(0)}` }),
    one.low == null ? null : h("i", { class: "mm-c-range", style: `left:${at(one.low)};width:calc(${at(one.high)} - ${at(one.low)})` }), h("i", { class: "mm-c-point", style: `left:${at(one.value)}` })),
    h("span", { class: "mm-value" }, signed(one.value), h("small", {}, one.low == null ? " too few for an interval" : ` ${signed(one.low)} to ${signed(one.high)}`))));
}

export async function showRanking(place) {
  const found = await ask("ranking");
  const chosen = h("select", { "aria-label": "criterion of the pairs" }, found.criteria.map((one) => h("option", { value: one.key, selected: one.key === "overall" }, one.name)));
  place.replaceChildren(h("p", { class: "mm-c-note" }, found.votes ? `${found.votes} ${found.votes === 1 ? "vote" : "votes"}. Bradley-Terry strengths (log odds, the mean at 0) with 95 % intervals by resampling votes; a tie is half a win for each.`
    : "No votes yet. Tick Blind, compare, and vote."), h("div", {}, found.votes ? found.criteria.map((row) => h("section", { class: "mm-c-ranked" }, h("h4", {}, row.name, h("small", {}, ` ${row.n} ${row.n === 1 ? "pair" : "pairs"}`)), strengths(row),
    row.pairs.map((one) => h("p", { class: "mm-c-note" }, `${one.left} against ${one.right}: ${one.wins} won, ${one.ties} tied, ${one.losses} lost${one.p == null ? "" : `, sign test p = ${one.p.toFixed(3)}`}`)))) : null),
  h("div", { class: "mm-c-end" }, button("Look again", () => showRanking(place)), button("All votes (jsonl)", () => save("votes/votes.jsonl")), chosen,
    button("Preference pairs (jsonl)", () => save(`votes/preferences.jsonl?criterion=${chosen.value}`))));
}
