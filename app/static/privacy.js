// The Privacy tab: what is kept of whom, and every way to end it. Everything shown is built as text nodes.
"use strict";
import { h } from "./element.js";
import { told } from "./remote.js";
const BASE = new URL("../privacy/", import.meta.url).href;
const root = () => document.querySelector("#mm-privacy");
const NAMES = { transcript: "words and labels", audio: "sound", video: "pictures" };
let state = null, opened = null, asking = null, draft = { parts: [], person: "", by: "client" };

async function ask(path, body = {}) {
  let answer;
  try {
    answer = await fetch(BASE + path, { method: "POST", credentials: "same-origin",
      headers: { "X-MultiMood": "1", "Content-Type": "application/json" },
      body: JSON.stringify({ session: window.multimood?.token() || "", ...body }) });
  } catch {
    throw new Error("MultiMood cannot be reached; try again in a moment.");
  }
  const found = await answer.json().catch(() => ({ error: `Something went wrong (${answer.status}); try again.` }));
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function say(text, bad = false) {
  const line = document.querySelector("#mm-privacy-message");
  line.textContent = text;
  line.className = bad ? "mm-problem" : "";
  if (bad) line.scrollIntoView({ block: "nearest" });
}

// Runs an act, shows what came of it, and puts the focus where it was.
const doing = (path, body, told) => async (event) => {
  event?.preventDefault();
  const at = event?.currentTarget?.id || document.activeElement?.id;
  try {
    const before = state?.live;
    state = await ask(path, typeof body === "function" ? body() : body);
    if (before && !state.live) { location.reload(); return; } // this page's own session was deleted: no word of it stays on the screen
    draw();
    say(typeof told === "function" ? told(state) : told || "");
  } catch (error) { say(error.message, true); }
  focusOn(at);
};

// Where what had the focus is gone or folded away, the line that says what was done has it.
function focusOn(id) {
  const there = id && document.getElementById(id);
  (there?.checkVisibility() ? there : document.querySelector("#mm-privacy-message")).focus({ preventScroll: true });
}

const button = (id, text, act, kind = "mm-plain") => h("button", { type: "button", id, class: kind, onclick: act }, text);
const when = (iso) => new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
const size = (bytes) => bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

// What cannot be undone is asked once more, in the same place.
function sure(id, label, question, yes, act) {
  if (asking !== id) return button(id, label, () => { asking = id; draw(); document.getElementById(`${id}-yes`)?.focus(); });
  return h("span", { class: "mm-sure", role: "group", "aria-label": question }, question, " ",
    button(`${id}-yes`, yes, (event) => { asking = null; return act(event); }, "mm-danger"),
    button(id, "Back", () => { asking = null; draw(); document.getElementById(id)?.focus(); }));
}

function live() {
  if (state.key === "none") {
    return card("This session", h("p", {}, "Nothing is kept. To keep anything, this computer first needs a key; without it, what is kept cannot be read by anybody."),
      state.admin ? button("mm-make-key", "Make a key on this computer", doing("key", {}, (found) => found.told), "mm-solid") : null);
  }
  if (!state.live) return card("This session", h("p", {}, "There is no session on this page yet."));
  const mine = state.kept.find((one) => one.id === state.live.id);
  const standing = mine ? mine.consents.filter((one) => !one.revoked).map((one) => one.part) : [];
  const line = standing.length
    ? `Kept from now on: ${standing.map((part) => NAMES[part]).join(", ")}.`
    : "Nothing of this session is kept. It is gone when MultiMood ends.";
  const person = h("input", { id: "mm-consent-person", maxlength: 80, value: mine ? mine.label : draft.person, readonly: Boolean(mine),
    autocomplete: "off", list: "mm-people", oninput: (event) => { draft.person = event.target.value; } });
  const people = h("datalist", { id: "mm-people" }, [...new Set(state.kept.map((one) => one.label))].map((label) => h("option", { value: label })));
  const boxes = Object.entries(state.consent.texts).map(([part, text]) => h("label", { class: "mm-agree" },
    h("input", { type: "checkbox", id: `mm-agree-${part}`, checked: standing.includes(part) || draft.parts.includes(part), disabled: standing.includes(part),
      onchange: (event) => { draft.parts = draft.parts.filter((one) => one !== part).concat(event.target.checked ? [part] : []); } }),
    h("span", {}, h("b", {}, NAMES[part]), h("br"), text)));
  const by = h("select", { id: "mm-consent-by", onchange: (event) => { draft.by = event.target.value; } },
    state.consent.givers.map((one) => h("option", { value: one, selected: draft.by === one }, one === "client" ? "the client" : "a legal guardian")));
  return card("This session", h("p", { id: "mm-kept-now" }, line),
    h("details", { open: !mine }, h("summary", {}, standing.length ? "Keep more of it" : "Keep something of it"),
      h("div", { class: "mm-fields" }, h("label", {}, h("span", {}, "Name or code of the person"), person), people,
        h("label", {}, h("span", {}, "Agreed to by"), by)),
      h("p", { class: "mm-note" }, "What the person hears, word for word, and agrees to:"),
      boxes, h("p", { class: "mm-note" }, state.consent.always, ` (Text ${state.consent.version}.)`),
      button("mm-keep", "They agreed: keep this", doing("keep", () => ({ person: mine ? mine.label : draft.person, by: draft.by,
        parts: draft.parts.filter((part) => !standing.includes(part)) }), () => { draft = { parts: [], person: "", by: "client" }; return "The consent is recorded. Sound and pictures are kept of turns from now on."; }), "mm-solid")),
    standing.length ? h("div", { class: "mm-acts" }, standing.map((part) => revoke(mine, part))) : null);
}

const revoke = (one, part) => button(`mm-revoke-${one.id}-${part}`, `Take back: ${NAMES[part]}`, doing("revoke", { id: one.id, parts: [part] },
  () => `Taken back; recording has stopped. What was kept of it so far can be deleted under “What is kept”.`));

function session(one) {
  const media = Object.entries(one.parts).filter(([name]) => name.startsWith("turn-") && !name.includes(".blurred"));
  const address = (name, blurred) => `${BASE}clip/${one.id}/${name}${blurred ? "?blurred=1" : ""}`;
  const has = { transcript: "transcript" in one.parts, audio: media.some(([n]) => n.endsWith(".flac")), video: media.some(([n]) => n.endsWith(".webm")) };
  const left = one.consents.filter((c) => c.revoked && has[c.part]).map((c) => c.part);
  return h("article", { class: "mm-card", "data-kept": one.id },
    h("header", {}, h("b", {}, one.label), h("span", { class: "mm-note" }, ` ${when(one.started)}${one.open ? ", open now" : ""}`)),
    one.problem ? h("p", { class: "mm-problem", role: "alert" }, one.problem) : null,
    h("ul", { class: "mm-consents" }, one.consents.map((c) => h("li", {}, h("b", {}, NAMES[c.part]), c.revoked
      ? ` taken back ${when(c.revoked)}` : ` agreed ${when(c.given)} by ${c.by === "client" ? "the client" : "a guardian"}, text ${c.version}`))),
    media.length ? h("details", {}, h("summary", {}, `${media.length} clip${media.length > 1 ? "s" : ""}`), h("ul", { class: "mm-consents" }, media.map(([name, bytes]) => h("li", {},
      `${name.replace("-", " ").replace(/\.(flac|webm)$/, (_, kind) => kind === "flac" ? ", sound" : ", pictures")} (${size(bytes)}) `,
      h("a", { href: address(name), download: name }, "Save"), name.endsWith(".webm") ? h("a", { href: address(name, true), download: `faces-covered-${name}` }, "Save with faces covered") : null)))) : null,
    left.length ? h("p", { class: "mm-offer" }, `The consent to keep ${left.map((part) => NAMES[part]).join(" and ")} was taken back. `,
      sure(`mm-clear-${one.id}`, "Delete what was kept of it", "It cannot be brought back.", "Delete it", doing("delete", { id: one.id, parts: left }, "Deleted."))) : null,
    h("div", { class: "mm-acts" },
      has.transcript ? button(`mm-open-${one.id}`, opened?.id === one.id ? "Close it" : "Open it", opened?.id === one.id
        ? () => { opened = null; draw(); document.getElementById(`mm-open-${one.id}`)?.focus(); }
        : doing("session", { id: one.id }, (found) => { opened = found.opened; draw(); return ""; })) : null,
      one.id === state.live?.id ? null : one.consents.filter((c) => !c.revoked).map((c) => revoke(one, c.part)),
      sure(`mm-delete-${one.id}`, "Delete session", "All of this session, for good?", "Delete it", doing("delete", { id: one.id }, "The session is deleted.")),
      sure(`mm-person-${one.id}`, "Delete this person", "Every session and clip of this person, for good?", "Delete the person",
        doing("delete", { person: one.person }, (found) => `Deleted: ${found.deleted} session${found.deleted === 1 ? "" : "s"} of this person.`))),
    opened?.id === one.id && opened.session ? words(opened.session) : null);
}

const words = (found) => h("div", { class: "mm-words-kept", tabindex: 0, role: "region", "aria-label": "the kept session" },
  h("p", { class: "mm-note" }, `Answered by ${found.checkpoint.name}, ${found.checkpoint.sha256.slice(0, 12)}`),
  found.turns.map((turn) => h("p", {}, h("b", {}, `Turn ${turn.number} `), turn.client.words || "no words", h("br"), h("span", { class: "mm-note" },
    Object.entries(turn.labels).map(([task, label]) => `${task.replace("_", " ")}: ${label.set_by_clinician || label.predicted}`).join(" · ")), h("br"),
    turn.reply.said ? `Said: ${turn.reply.said}` : `Suggested (${turn.reply.decision}): ${turn.reply.suggested || "none"}`)),
  found.notes.map((note) => h("p", {}, h("b", {}, "Note "), note.text)));

function period() {
  if (state.key !== "made") return null;
  const days = h("input", { type: "number", min: 1, max: 3650, value: state.days, id: "mm-days", disabled: !state.admin });
  return card("How long", h("form", { class: "mm-fields", onsubmit: doing("retention", () => ({ days: Number(days.value) }),
    (found) => `Set.${found.purged ? ` ${found.purged} older session${found.purged > 1 ? "s were" : " was"} deleted.` : ""}`) },
  h("label", {}, h("span", {}, "Days after its last change until a session is deleted"), days), state.admin ? h("button", { class: "mm-plain", id: "mm-days-set" }, "Set") : null));
}

function elsewhere() {
  const hosts = state.remote, off = hosts.filter((one) => !one.on);
  if (!hosts.length) return card("Models elsewhere", h("p", {}, "None is configured. No text leaves this computer."));
  return card("Models elsewhere", hosts.map((one) => h("div", { "data-host": one.host }, told(one))), !state.admin ? null : [
    off.map((one, i) => sure(`mm-remote-${i}`, `Turn on ${one.host}`, `Send text to ${one.host}?`, "Turn it on", doing("remote", { on: true, host: one.host }, "On, until MultiMood ends or you turn it off."))),
    off.length < hosts.length ? button("mm-remote-off", "Turn off all", doing("remote", { on: false }, "Off: nothing leaves this computer.")) : null]);
}

function trail() {
  return card("Log", h("p", {}, state.audit.problems.length ? h("span", { class: "mm-problem" }, state.audit.problems.join(" ")) : "The log is whole. It says who did what, and nothing that anybody said."),
    h("details", {}, h("summary", {}, "Latest lines"), h("ul", { class: "mm-consents" }, state.audit.latest.map((one) => h("li", {}, `${when(one.at)} ${one.who}: ${one.what}`))),
      h("p", { class: "mm-note mm-hash" }, `Head: ${state.audit.head}`)));
}

const card = (title, ...children) => h("section", { class: "mm-card" }, h("h3", {}, title), children);

function draw() {
  const message = document.querySelector("#mm-privacy-message") || h("p", { id: "mm-privacy-message", role: "status", "aria-live": "polite", tabindex: -1 });
  const kept = state.kept.length ? state.kept.map(session) : h("p", { class: "mm-note" }, "Nothing is kept.");
  root().replaceChildren(message, state.problem ? h("p", { class: "mm-problem", role: "alert" }, state.problem) : "",
    h("div", { class: "mm-halves" }, h("div", {}, live(), period() || "", elsewhere(), trail()),
      h("div", {}, h("section", {}, h("h3", {}, "What is kept"), kept))),
    state.signed_in ? h("form", { method: "post", action: "multimood/sign-out" }, h("button", { class: "mm-plain" }, `Sign out ${state.who}`)) : "");
}

const inFront = () => Boolean(root()?.offsetParent);
// Keys of the Live tab rest while this one is in front.
addEventListener("keydown", (event) => {
  if (!inFront() || !(root().contains(event.target) || event.target === document.body)) return;
  event.stopPropagation();
  if (event.key === "Escape" && asking) { const at = asking; asking = null; draw(); document.getElementById(at)?.focus(); }
}, true);

let seen = false;
async function look() {
  if (!inFront()) { seen = false; return; }
  if (seen) return;
  seen = true;
  try { state = await ask("state"); draw(); } catch (error) {
    root().replaceChildren(h("p", { id: "mm-privacy-message", role: "alert", class: "mm-problem" }, error.message));
  }
}
setInterval(look, 300);
look();
