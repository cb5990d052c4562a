// A rater's page: tutorial, entrance test and the official items, by keyboard alone.
"use strict";
import { ask, button, doing, home, listen, root, say, show } from "./annotate.js";
import { h } from "./element.js";
import { LABELS, sheet, shown, takesEnter } from "./annotate_sheet.js";

const AWAY = 300000; // ms without the page in front that are a break
let now = null; // {study, data, task, chosen, sheet, began, spent, feedback}
let workedSince = null, hiddenSince = null, guidelineSeen = {};
const drafts = new Map(); // what was chosen of an item that was left by U

export async function work(study) {
  let data;
  try { data = await ask(`work/${study}/next`, {}); } catch (error) {
    if (![403, 409].includes(error.status)) throw error;
    return stuck(study, error.message);
  }
  if (data.phase === "practice" && data.done === 0 && now?.read !== `${study}/practice/${data.round}`) return tutorial(study, data);
  if (!data.task) return resting(study, data);
  if (data.phase !== "practice" && data.done === 0 && now?.read !== `${study}/${data.phase}/${data.round}`) return doorway(study, data);
  begin(study, data, data.task);
}

function begin(study, data, task) {
  const draft = drafts.get(task.assignment);
  const chosen = { ...(draft?.chosen || task.verdicts || {}) };
  now = { study, data, task, chosen, began: performance.now(), spent: 0, read: `${study}/${data.phase}/${data.round}`,
    key: crypto.randomUUID ? crypto.randomUUID() : String(Math.random()).slice(2).padEnd(16, "0") };
  now.sheet = sheet(data.criteria, chosen, () => Boolean(now?.feedback));
  workedSince ??= performance.now();
  draw(draft?.comment ?? task.comment ?? "");
  listen(keys);
  const seen = guidelineSeen[study];
  guidelineSeen[study] = data.guideline_version;
  if (seen && seen !== data.guideline_version) say("The guideline was reworded: press ? to read it.");
}

// Seconds that the item was in front of the rater: a hidden page and the pause do not count, and no clock can jump.
const seconds = () => (now.spent + (now.began === null ? 0 : performance.now() - now.began)) / 1000;
function halt() { if (now && now.began !== null) { now.spent += performance.now() - now.began; now.began = null; } }
function resume() { if (now && now.began === null) now.began = performance.now(); }
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { halt(); hiddenSince = performance.now(); return; }
  if (hiddenSince !== null && performance.now() - hiddenSince > AWAY && workedSince !== null) workedSince = performance.now();
  if (!root()?.querySelector("dialog[open]") && !now?.feedback) resume();
});

function minutes(value) {
  if (value == null) return "";
  return value < 90 ? "about a minute left" : value < 5400 ? `about ${Math.round(value / 60)} min left` : `about ${Math.round(value / 3600)} h left`;
}

const PHASES = { practice: "practice", gate: "entrance test", official: "study" };

function top() {
  const { data } = now, total = data.done + data.left;
  return h("header", { class: "mm-bar-top" },
    h("span", {}, h("b", {}, PHASES[data.phase] || PHASES.official), data.round > 1 ? ` round ${data.round}` : ""),
    h("progress", { max: Math.max(1, total), value: data.done, "aria-label": "progress" }),
    h("span", { class: "mm-progress" }, `${data.done} of ${total}`), h("span", { class: "mm-progress" }, data.left ? minutes(data.seconds_left) : ""),
    h("span", { class: "mm-corner" }, button("Pause", pause), button("This is hard to read", wayOut), button("?", help, "mm-plain", { "aria-label": "definitions and keys" }), button("Leave", leave)));
}

function draw(comment) {
  show(top(), shown(now.task), now.sheet.element,
    h("div", { class: "mm-end" }, h("input", { id: "mm-comment", value: comment, maxlength: 4000, placeholder: "comment (C)", "aria-label": "comment" }),
      button("Cannot judge (X)", cannot), button("Undo (U)", undo, "mm-plain", { id: "mm-undo" }), button("Enter", enter, "mm-solid", { id: "mm-enter" })),
    h("div", { id: "mm-feedback", "aria-live": "polite" }));
  now.sheet.focus();
}

function keys(event) {
  if (document.querySelector("dialog[open]")) return;
  const typing = event.target.closest?.("input, textarea, select");
  if (typing) { if (event.key === "Enter" || event.key === "Escape") { event.preventDefault(); typing.blur(); } return; }
  if (now.sheet.press(event)) return;
  const key = event.key.toLowerCase();
  const acts = { enter: doing(enter), u: doing(undo), x: doing(cannot), c: () => root().querySelector("#mm-comment")?.focus(), "?": help };
  if (!acts[key] || (key === "enter" && takesEnter(event.target))) return;
  event.preventDefault();
  acts[key]();
}

let sending = false;
async function send(reason) {
  if (sending) return;
  sending = true;
  const { study, task, chosen, key } = now;
  try {
    const saved = await ask(`work/${study}/judge`, { assignment: task.assignment, verdicts: reason ? {} : chosen, reason: reason || "", key,
      comment: root().querySelector("#mm-comment")?.value || "", seconds: Math.round(seconds() * 100) / 100, replaces: task.replaces ?? null });
    drafts.delete(task.assignment);
    if (saved.feedback) return feedback(saved.feedback);
    await work(study);
    remind(); // over the next item: a page that is drawn takes its dialogs with it
  } catch (error) {
    if (error.status !== 409) throw error;
    await work(study); // judged in another tab: the next item, and why
    say(error.message, true);
  } finally { sending = false; }
}

async function enter() {
  if (now.feedback) { now.feedback = null; return work(now.study); }
  const open = now.sheet.missing();
  if (open) throw new Error(`${open} is still open: press 1, 2 or 3.`);
  await send();
}

function feedback({ gold, note }) {
  now.feedback = gold;
  halt();
  const lines = now.data.criteria.filter((one) => gold[one.key]).map((one) => h("li", { class: gold[one.key] === now.chosen[one.key] ? "mm-same" : "mm-other" },
    `${one.name}: `, h("b", {}, LABELS[gold[one.key]]), gold[one.key] === now.chosen[one.key] ? ", as you" : `; you: ${LABELS[now.chosen[one.key]] || "not judged"}`));
  const place = root().querySelector("#mm-feedback");
  place.replaceChildren(h("div", { class: "mm-explained" }, h("h4", {}, "What the guideline's authors chose"), h("ul", {}, lines),
    h("p", {}, note), h("p", { class: "mm-note" }, "Enter goes on.")));
  place.scrollIntoView({ block: "nearest" });
}

async function undo() {
  const { study, data, task, chosen } = now;
  const earlier = await ask(`work/${study}/previous${task ? `?before=${task.assignment}` : ""}`);
  if (task && !now.feedback) drafts.set(task.assignment, { chosen, comment: root().querySelector("#mm-comment")?.value || "" });
  begin(study, data, earlier);
  say("An earlier item: change what you like, Enter keeps it.");
}

function dialog(title, ...children) {
  halt();
  const made = h("dialog", { class: "mm-dialog", "aria-label": title, onclose: () => { made.remove(); resume(); now?.sheet?.focus(); } }, h("h3", {}, title), ...children);
  root().append(made);
  made.showModal();
  return made;
}

const close = (text = "Back") => button(text, (event) => root().querySelector("dialog[open]")?.close(), "mm-plain");

function pause() {
  dialog("A pause", h("p", {}, "Your place is kept, and the time does not count. You can also close the page and come back later."), close("Go on"));
  workedSince = performance.now();
}

function cannot() {
  const reasons = [["unclear", "I do not understand the dialogue"], ["not my language", "It is not in a language that I read well"],
    ["technical", "Something is broken in it"], ["other", "Another reason (write it as a comment)"]];
  dialog("You cannot judge this item", h("div", { class: "mm-reasons" }, reasons.map(([reason, text]) => button(text, async () => {
    root().querySelector("dialog[open]")?.close();
    await send(reason);
  }))), close());
}

function wayOut() {
  const support = now.data.support;
  dialog("This is hard to read", h("p", {}, "You do not have to read on. Passing an item over has no drawbacks for you, and nobody asks why."),
    support ? h("p", { class: "mm-support" }, support) : h("p", { class: "mm-note" }, "Talk to the researcher who runs the study, or to somebody you trust."),
    h("div", { class: "mm-reasons" }, button("Pass this item over", async () => { root().querySelector("dialog[open]")?.close(); await send("distressing"); }, "mm-solid"),
      button("Stop for today", async () => { root().querySelector("dialog[open]")?.close(); await leave(); }), close("Go on with it")));
}

async function leave() { halt(); now = null; workedSince = null; listen(null); await home(); }

function help() {
  dialog("Definitions and keys", h("p", {}, h("kbd", {}, "1"), " A better, ", h("kbd", {}, "2"), " tie, ", h("kbd", {}, "3"), " B better, ", h("kbd", {}, "↑ ↓"),
    " another criterion, ", h("kbd", {}, "Enter"), " goes on, ", h("kbd", {}, "U"), " takes back, ", h("kbd", {}, "C"), " comments, ",
    h("kbd", {}, "X"), " cannot judge"), guideline(now.data.criteria), close());
}

const guideline = (criteria) => h("dl", { class: "mm-guideline" }, criteria.map((one) => [h("dt", {}, one.name), h("dd", {}, h("p", {}, one.definition),
  one.good ? h("p", { class: "mm-good-example" }, h("b", {}, "does well: "), one.good) : null, one.bad ? h("p", { class: "mm-bad-example" }, h("b", {}, "does not: "), one.bad) : null)]));

function kappas(last, data) {
  if (!last) return null;
  const lines = data.criteria.map((one) => h("li", {}, `${one.name}: `, h("b", {}, last.kappas[one.key] == null ? "not defined" : last.kappas[one.key].toFixed(2))));
  return h("div", { class: "mm-explained" }, h("h4", {}, `Entrance test, round ${last.round}: ${last.passed ? "passed" : "not passed yet"}`),
    h("p", {}, `Your Cohen's kappa with the gold; each has to be above ${data.gate_kappa}.`), h("ul", {}, lines),
    last.passed ? null : h("p", {}, "Read the definitions again where it is low, practise, and try the next round with other items."));
}

function tutorial(study, data) {
  show(h("header", { class: "mm-bar-top" }, h("h3", {}, data.round > 1 ? `Training, round ${data.round}` : "Before you begin"), button("Leave", leave)), kappas(data.last_gate, data),
    h("p", {}, "You will read a dialogue and two responses to its last turn, A and B, and say for each criterion which one is better, or tie. You do not know who wrote them, "
      + "and which one stands as A changes by chance. Some items may be sad; you can pass any of them over."),
    guideline(data.criteria), h("p", {}, `First ${data.left} practice items with an explanation after each`, data.phase === "practice" ? ", then the entrance test if the study has one." : "."),
    button("Begin to practise", async () => { begin(study, data, data.task); }, "mm-solid", { id: "mm-begin" }));
  listen((event) => { if (event.key === "Enter" && !event.target.closest?.("button")) root().querySelector("#mm-begin")?.click(); });
}

function doorway(study, data) {
  const test = data.phase === "gate";
  show(h("header", { class: "mm-bar-top" }, h("h3", {}, test ? `Entrance test, round ${data.round}` : "The study"), button("Leave", leave)), kappas(data.last_gate, data),
    h("p", {}, test ? `${data.left} items without explanations. For each criterion, Cohen's kappa with the gold has to be above ${data.gate_kappa}; else you practise again and try other items.`
      : "From here on your judgments count. Take your time; a break is suggested now and then."),
    button("Begin", async () => { begin(study, data, data.task); }, "mm-solid", { id: "mm-begin" }));
  listen((event) => { if (event.key === "Enter" && !event.target.closest?.("button")) root().querySelector("#mm-begin")?.click(); });
}

// Taken out of the study, or no items are left for another round: said on a page that can be left.
function stuck(study, why) {
  now = null;
  listen(null);
  show(h("header", { class: "mm-bar-top" }, h("h3", {}, "Nothing to judge now"), button("Leave", leave)),
    h("p", { id: "mm-resting" }, why), h("p", { class: "mm-note" }, "What you have judged is kept."), button("Look again", () => work(study)));
}

function resting(study, data) {
  const closed = data.phase === "closed", back = !closed && data.done > 0;
  now = { study, data, task: null, chosen: {}, began: null, spent: 0 };
  show(h("header", { class: "mm-bar-top" }, h("h3", {}, closed ? "The study is closed" : "Nothing to judge now"), button("Leave", leave)), kappas(data.last_gate, data),
    h("p", { id: "mm-resting" }, closed ? "Thank you. Your judgments are kept." : `Thank you: you have judged ${data.done}. More may come while others judge, if their answers differ.`),
    h("div", { class: "mm-inline" }, closed ? null : button("Look again", () => work(study)), back ? button("Undo (U)", undo, "mm-plain", { id: "mm-undo" }) : null));
  listen((event) => { if (back && event.key.toLowerCase() === "u") doing(undo)(event); });
}

function remind() {
  const worked = (performance.now() - workedSince) / 60000;
  if (!now?.task || worked < now.data.break_minutes) return;
  workedSince = performance.now();
  dialog("Time for a break", h("p", {}, `You have been at it for ${Math.round(worked)} minutes. Judgments get better after a rest, and so do you.`), close("Go on"));
}
