// What systems answered, side by side. The frame is drawn once; what changes is put into it, so that nothing jumps.
"use strict";
import { ask, button, say, watch } from "./compare.js";
import { h } from "./element.js";
import { voting } from "./compare_vote.js";

const TASKS = { client_emotion: "predicted expression", therapist_emotion: "suggested therapist emotion", strategy: "suggested strategy" };
const SHOWN = { client_emotion: 3, therapist_emotion: 2, strategy: 3 };
const PHASES = { loading: "Systems are being loaded", answering: "Replies are being written", scoring: "Replies are being scored", done: "Done", stopped: "Stopped" };
const SOURCES = { live: "live turn", clip: "clip", words: "typed words", item: "data set item" };

const decimal = (value) => value.toFixed(2).replace(/^0/, "");
export const said = (parts) => parts.map(([text, alone]) => (alone ? h("mark", {}, text) : text));

function bar(name, value, colour, strong, note) {
  const track = value == null ? h("span", { class: "mm-c-none" }, note || "not scored") : h("span", { class: "mm-track" }, h("i", { style: `width:${Math.round(100 * Math.min(1, value))}%${colour ? `;background:${colour}` : ""}` }));
  return h("div", { class: strong ? "mm-c-bar mm-c-strong" : "mm-c-bar" }, h("span", { title: name }, name), track, h("span", { class: "mm-value" }, value == null ? "" : decimal(value)));
}

function labels(column) {
  return Object.entries(TASKS).map(([task, title]) => {
    const found = column.labels[task];
    const chip = found ? h("b", { class: found.differs ? "mm-c-differs" : "", title: found.differs ? "the systems differ here" : "" },
      found.colour ? h("i", { class: "mm-dot", style: `background:${found.colour}` }) : null, found.label, found.differs ? h("small", {}, " differs") : null) : h("span", { class: "mm-c-none" }, column.done ? "not given" : "follows");
    const bars = found ? (found.shares.length ? found.shares.slice(0, SHOWN[task]).map((one) => bar(one.label, one.share, one.colour, one.label === found.label))
      : [h("p", { class: "mm-c-none" }, "without probabilities: this system writes text")]) : [];
    return h("div", { class: `mm-c-task mm-c-${task}` }, h("h4", {}, title, " ", chip), h("div", { class: "mm-c-bars" }, bars));
  });
}

const NAMES = { r_trust: "trust", "guard/length": "guard: length", "guard/ending": "guard: ending",
  "guard/repetition": "guard: repetition", "guard/copying": "guard: copying" };
function rewards(column, turn, running) {
  if (!column.reward) return h("p", { class: "mm-c-none" }, !column.done || column.problem ? "" : running ? "reward follows" : "not scored: it was stopped");
  const named = (name) => NAMES[name] || name.replace(/^r_sim.*/, "likeness to the real reply").replace("r_trust/", "trust: ").replace("guard/", "guard: ");
  const why = (name) => (name.startsWith("r_sim") && !turn.reference ? "no real reply is known" : "not scored");
  return [bar("reward", column.reward.total, "", true), Object.entries(column.reward.parts).map(([name, value]) => bar(named(name), value, "", false, why(name)))];
}

function context(turn) {
  const lines = turn.history.map((one) => h("p", {}, h("b", {}, one.speaker), " ", one.text));
  const parts = [turn.problem, turn.situation].filter(Boolean).join(". ");
  return h("section", { class: "mm-c-turn" }, h("header", {}, h("b", {}, "client"), ` ${SOURCES[turn.source] || turn.source}${turn.item ? ` ${turn.item}` : ""} · ${turn.heard.join(", ") || "nothing yet"}`),
    h("p", { class: "mm-c-words", dir: "auto" }, turn.words || h("span", { class: "mm-c-none" }, "the words follow")),
    parts ? h("p", { class: "mm-c-note" }, parts) : null,
    lines.length ? h("details", {}, h("summary", {}, `${lines.length} turns before`), h("div", { class: "mm-c-before" }, lines)) : null);
}

function reference(turn) {
  if (!turn.reference) return null;
  const truth = Object.values(turn.truth).filter(Boolean).join(" · ");
  return h("section", { class: "mm-c-real" }, h("header", {}, h("b", {}, "what the therapist really said"), truth ? ` · marked ${truth}` : ""), h("p", {}, turn.reference));
}

let frame = null; // {key, parts, last}

export function draw(place, found, choices) {
  const key = `${found.id} ${found.locked}`;
  if (!frame || frame.key !== key || !place.contains(frame.columns)) {
    frame = { key, last: {}, status: h("p", { class: "mm-c-status", role: "status" }), stop: button("Stop", async () => { await ask(`comparison/${found.id}/stop`, {}); await watch(found.id); }),
      turn: h("div", {}), real: h("div", {}), vote: h("div", {}), columns: h("div", { class: `mm-c-columns mm-c-of${found.columns.length}` }, found.columns.map((column) => h("article", { "data-key": column.key, "aria-label": `system ${column.key}` }))) };
    place.replaceChildren(h("div", { class: "mm-c-top" }, frame.status, frame.stop), frame.turn, frame.columns, frame.real, frame.vote);
  }
  frame.stop.hidden = !found.running;
  const covered = found.blind && !found.locked;
  put("status", [found.phase, covered, found.locked, found.problem], frame.status, () => [status(found, covered)]);
  put("turn", found.turn, frame.turn, () => [context(found.turn)]);
  put("real", [found.turn.reference, covered, found.running], frame.real, () => [covered || found.running ? null : reference(found.turn)]);
  found.columns.forEach((column, i) => put(column.key, [column, found.turn.reference, found.running], frame.columns.children[i], () => (covered ? hidden(column) : open(column, found))));
  put("vote", [covered, found.running], frame.vote, () => [covered && !found.running ? voting(found, choices) : null]);
}

function put(name, value, place, make) {
  const text = JSON.stringify(value);
  if (frame.last[name] === text) return;
  frame.last[name] = text;
  place.replaceChildren(...make().flat(9).filter(Boolean));
}

function status(found, covered) {
  if (found.problem) return h("span", { class: "mm-problem" }, found.problem);
  if (covered && found.running) return "Replies are being written; they are shown together, so that their speed says nothing.";
  if (covered) return "Blind: read the replies and vote. Names, labels and rewards follow.";
  return found.locked ? "Your vote is locked. These are the systems." : PHASES[found.phase];
}

function hidden(column) {
  return [h("header", {}, h("b", { class: "mm-c-letter" }, column.key)), h("p", { class: "mm-c-reply", dir: "auto" }, column.problem ? h("span", { class: "mm-c-none" }, column.problem)
    : column.done ? said(column.reply) : h("span", { class: "mm-c-none" }, "the reply follows"))];
}

function open(column, found) {
  const facts = [column.rate ? `${column.rate} tokens/s` : "", column.done && column.seconds ? `${column.seconds.toFixed(1)} s` : "", column.sha256.slice(0, 8)].filter(Boolean).join(" · ");
  const ranks = found.vote ? Object.entries(found.vote.ranks).filter(([, row]) => column.key in row) : [];
  const best = ranks.filter(([, row]) => row[column.key] === 1 && Object.values(row).filter((rank) => rank === 1).length === 1).map(([key]) => key);
  const writing = found.running && !column.done && column.reply.length;
  return [h("header", {}, h("b", { class: "mm-c-letter" }, column.key), " ", h("b", { class: "mm-c-name" }, column.name), h("small", {}, facts)),
    ranks.length ? h("p", { class: "mm-c-best" }, best.length ? `your vote: best in ${best.join(", ")}` : "your vote: best in no criterion alone") : null,
    column.problem ? h("p", { class: "mm-problem" }, column.problem) : null,
    h("p", { class: "mm-c-reply", dir: "auto" }, column.reply.length ? said(column.reply) : h("span", { class: "mm-c-none" }, column.done ? "no reply" : "the reply follows"), writing ? h("span", { class: "mm-cursor", "aria-hidden": "true" }, "▍") : null),
    h("div", { class: "mm-c-labels" }, labels(column)), h("div", { class: "mm-c-task mm-c-rewards" }, rewards(column, found.turn, found.running))];
}
