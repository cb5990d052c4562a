// The Compare tab: which turn, which systems, and the way to what they answer. What is shown is built as text nodes: nothing
// that a person or a model wrote becomes markup.
"use strict";
import { h } from "./element.js";
import { draw } from "./compare_show.js";
import { showBatches } from "./compare_batch.js";
import { showRanking } from "./compare_vote.js";
import { told, turnOn } from "./remote.js";

const BASE = new URL("../compare/", import.meta.url).href;
const KEPT = "multimood.compare";
const POLL = 250; // ms between two looks at replies that are being written
export const root = () => document.querySelector("#mm-compare");

async function sent(path, body, file) {
  const headers = { "X-MultiMood": "1" };
  if (body !== undefined || file) headers["Content-Type"] = file ? "application/octet-stream" : "application/json";
  const options = body === undefined && !file ? {} : { method: "POST", body: file || JSON.stringify(body) };
  let answer;
  try { answer = await fetch(BASE + path, { credentials: "same-origin", headers, ...options }); } catch {
    throw new Error("MultiMood cannot be reached; what you entered is still here. Try again in a moment.");
  }
  if (!answer.ok) {
    const found = await answer.json().catch(() => ({}));
    throw new Error(found.error || `Something went wrong (${answer.status}); try again.`);
  }
  return answer;
}
export const ask = async (path, body, file) => (await sent(path, body, file)).json();

export async function save(path) {
  const answer = await sent(path), link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition"))[1];
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

export function say(text, bad = false) {
  const line = root().querySelector("#mm-c-message");
  line.textContent = text;
  line.className = bad ? "mm-problem" : "";
  if (bad) line.scrollIntoView({ block: "nearest" });
}

// Does what a button does; while it runs the button rests, and an error on purpose is shown as its sentence.
export const doing = (act) => async (event) => {
  event?.preventDefault();
  const button = event?.submitter || event?.currentTarget;
  const rests = button && "disabled" in button;
  if (rests) button.disabled = true;
  say("");
  try { await act(event); } catch (error) { say(error.message, true); }
  if (rests && button.isConnected) button.disabled = false;
};
export const button = (text, act, kind = "mm-plain", more = {}) => h("button", { type: "button", class: kind, onclick: doing(act), ...more }, text);
export const field = (label, ...inputs) => h("label", { class: "mm-c-field" }, h("span", {}, label), ...inputs);
export const number = (value, more) => h("input", { type: "number", value, ...more });
const remembered = (name) => { try { return sessionStorage.getItem(name); } catch { return null; } };

// -- what is compared --------------------------------------------------------------------------------------------------

export function samplingFields() {
  const made = { temperature: number(0, { min: 0, max: 2, step: 0.1 }), top_p: number(0.9, { min: 0.05, max: 1, step: 0.05 }),
    seed: number(0, { min: 0, step: 1 }), max_tokens: number(96, { min: 1, max: 256, step: 1 }) };
  const names = { temperature: "temperature", top_p: "top-p", seed: "seed", max_tokens: "most tokens" };
  const note = "At temperature 0 the likeliest word is taken. The same seed gives the same text of every local system; a remote endpoint knows neither seed nor top-p.";
  return { element: h("details", { class: "mm-c-more" }, h("summary", {}, "How replies are drawn"),
    h("div", { class: "mm-c-grid" }, Object.entries(made).map(([name, input]) => field(names[name], input))), h("p", { class: "mm-c-note" }, note)),
    value: () => Object.fromEntries(Object.entries(made).map(([name, input]) => [name, Number(input.value)])) };
}

// Systems as boxes to tick; where a remote one is ticked, what it would be told, and the switch.
export function systemFields(choices, least, most, ticked) {
  const boxes = choices.systems.map((one, i) => ({ one, box: h("input", { type: "checkbox", checked: i < ticked && one.kind !== "remote", onchange: doing(() => show()) }) }));
  const consent = h("div", { class: "mm-c-consent", tabindex: -1, hidden: true });
  const show = async () => { // asked for anew: the switch may have been turned in another tab
    consent.hidden = !boxes.some(({ one, box }) => box.checked && one.kind === "remote");
    if (consent.hidden) return;
    const hosts = (await ask("choices")).remote;
    consent.replaceChildren(...hosts.flatMap((one) => [...told(one), one.on ? h("p", {}, "The Privacy tab turns it off.") : button(`Turn on ${one.host}`, async () => { await turnOn(one.host); await show(); consent.focus(); })]));
  };
  const kinds = { checkpoint: "checkpoint", base: "before training, words alone", remote: "remote, words alone" };
  return { element: h("fieldset", { class: "mm-c-systems" }, h("legend", {}, most > least ? `Systems, ${least} to ${most}` : "Systems"),
    boxes.map(({ one, box }) => h("label", { class: "mm-c-tick" }, box, h("span", {}, one.name, h("small", {}, ` ${kinds[one.kind]}`)))), consent),
  value: async () => {
    const systems = boxes.filter(({ box }) => box.checked).map(({ one }) => ({ kind: one.kind, name: one.name }));
    if (systems.length < least || systems.length > most) throw new Error(`Choose ${least} to ${most} systems; ${systems.length} ${systems.length === 1 ? "is" : "are"} ticked.`);
    await show();
    return { systems };
  } };
}

function sourceFields(choices) {
  const words = h("textarea", { id: "mm-c-words", rows: 3, "aria-label": "the client's words" });
  const problem = h("input", { maxlength: 400 }), situation = h("input", { maxlength: 400 });
  const clip = h("input", { type: "file", accept: "video/*,audio/*,image/*", "aria-label": "clip" }), heard = h("input", { maxlength: 4000, placeholder: "recognised from the sound where empty" });
  const data = h("select", { "aria-label": "data set" }, choices.data.map((one) => h("option", { value: one.id }, one.name)));
  const item = number(1, { min: 1, step: 1, "aria-label": "item" }), preview = h("p", { class: "mm-c-preview", "aria-live": "polite" });
  let count = 1;
  const look = async () => {
    if (!choices.data.length) return;
    const found = await ask(`data/${data.value}/${Number(item.value) || 1}`);
    count = found.n;
    item.max = count;
    preview.replaceChildren(h("b", {}, found.id), ` “${found.client}”`, h("small", {}, ` after ${found.turns} turns; ${count} items in all`));
  };
  data.addEventListener("change", doing(async () => { item.value = 1; await look(); }));
  item.addEventListener("change", doing(look));
  const around = () => h("div", { class: "mm-c-grid mm-c-wide" }, field("problem", problem), field("situation", situation));
  const panes = {
    words: h("div", {}, field("What the client says", words), around()),
    live: h("p", { class: "mm-c-note" }, "The last turn of this page's live session, with its picture and sound, and the dialogue before it. Take one in the Live tab first."),
    clip: h("div", {}, h("div", { class: "mm-c-grid mm-c-wide" }, field("Clip: video, sound or picture", clip), field("The client's words, if you know them", heard)), h("p", { class: "mm-c-note" }, "The clip is read once and kept in memory alone.")),
    item: choices.data.length ? h("div", {}, h("div", { class: "mm-c-grid" }, field("data set", data), field("item", item),
      button("At random", async () => { item.value = 1 + Math.floor(Math.random() * count); await look(); })), preview) : h("p", { class: "mm-c-note" }, choices.no_data),
  };
  const names = { words: "Typed words", live: "Live turn", clip: "A clip", item: "Data set item" };
  let kind = "words";
  const pane = h("div", { class: "mm-c-pane" }, panes.words);
  const choose = (name) => { kind = name; pane.replaceChildren(panes[name]); if (name === "item") doing(look)(); };
  const radios = h("div", { class: "mm-c-kinds", role: "radiogroup", "aria-label": "which turn" }, Object.entries(names).map(([name, text]) => h("label", {},
    h("input", { type: "radio", name: "mm-c-kind", value: name, checked: name === kind, onchange: () => choose(name) }), h("span", {}, text))));
  return { element: h("section", {}, h("h3", {}, "The client's turn"), radios, pane),
    value: async () => {
      if (kind === "words") return { kind, words: words.value, problem: problem.value, situation: situation.value };
      if (kind === "live") return { kind, session: remembered("multimood.session") || "" };
      if (kind === "item") return { kind, data: data.value, number: Number(item.value) };
      if (!clip.files.length) throw new Error("Choose a clip first.");
      say("The clip is being read.");
      return { kind, words: heard.value, clip: (await ask(`clip?name=${encodeURIComponent(clip.files[0].name)}`, undefined, clip.files[0])).clip };
    } };
}

// -- one comparison ----------------------------------------------------------------------------------------------------

let choices = null, watched = null;

export async function watch(id) {
  watched = id;
  try { sessionStorage.setItem(KEPT, id); } catch { /* a page that may keep nothing */ }
  const place = root().querySelector("#mm-c-shown");
  while (watched === id) {
    const found = await ask(`comparison/${id}`);
    if (watched !== id) return;
    draw(place, found, choices);
    if (!found.running) return;
    await new Promise((done) => setTimeout(done, POLL));
  }
}

async function start() {
  choices = await ask("choices");
  const source = sourceFields(choices), systems = systemFields(choices, 2, 4, 2), sampling = samplingFields();
  const blind = h("input", { type: "checkbox", id: "mm-c-blind" });
  const form = h("form", { id: "mm-c-form", onsubmit: doing(async () => {
    const body = { ...(await systems.value()), sampling: sampling.value(), blind: blind.checked, source: await source.value() };
    const found = await ask("start", body);
    say("");
    const shown = root().querySelector("#mm-c-shown");
    shown.scrollIntoView({ block: "nearest" });
    watch(found.id).catch((error) => say(error.message, true));
  }) }, source.element, systems.element, h("div", { class: "mm-c-go" }, h("label", { class: "mm-c-tick" }, blind, h("span", {}, "Blind", h("small", {}, " order drawn, names after your vote"))),
    h("button", { class: "mm-solid", id: "mm-c-start" }, "Compare")), sampling.element);
  const later = (title, id, fill, again) => { // what was entered stays when it is closed and opened
    const place = h("div", { id }), made = h("details", { class: "mm-c-later" }, h("summary", {}, title), place);
    made.addEventListener("toggle", doing(async () => { if (made.open && (again || !place.childElementCount)) await fill(place, choices); }));
    return made;
  };
  root().replaceChildren(h("p", { id: "mm-c-message", role: "status", "aria-live": "polite" }), form, h("div", { id: "mm-c-shown" },
    h("p", { class: "mm-c-empty" }, "Choose a turn and two to four systems; their labels, replies and rewards stand here side by side.")),
  later("Ranking by blind votes", "mm-c-ranking", showRanking, true), later("A whole data set", "mm-c-batch", showBatches, false));
  const before = remembered(KEPT);
  if (before) {
    try { await watch(before); } catch { watched = null; try { sessionStorage.removeItem(KEPT); } catch { /* nothing was kept */ } }
  }
}

let begun = false;
// The tab asks for nothing before it is looked at.
new IntersectionObserver(async (seen) => {
  if (begun || !seen.some((one) => one.isIntersecting)) return;
  begun = true;
  try { await start(); } catch (error) {
    begun = false;
    root().replaceChildren(h("p", { id: "mm-c-message", class: "mm-problem", role: "alert" }, error.message));
  }
}).observe(root());
