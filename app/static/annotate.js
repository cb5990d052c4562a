// The Annotate tab: who is here, their studies, and the way to the rater's and the researcher's pages.
// Everything shown is built as text nodes: nothing that a person wrote becomes markup.
"use strict";
import { h } from "./element.js";
import { work } from "./annotate_work.js";
import { study } from "./annotate_study.js";

const BASE = new URL("../studies/", import.meta.url).href;
export const root = () => document.querySelector("#mm-studies");

export async function ask(path, body, file) {
  const options = body === undefined && !file ? {} : {
    method: "POST", headers: { "X-MultiMood": "1", "Content-Type": file ? "application/octet-stream" : "application/json" },
    body: file || JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(BASE + path, { credentials: "same-origin", ...options });
  } catch {
    throw new Error("MultiMood cannot be reached; what you entered is still here. Try again in a moment.");
  }
  const found = await answer.json().catch(() => ({ error: `Something went wrong (${answer.status}); try again.` }));
  if (answer.status === 401 && !["sign-in", "password", "me"].includes(path)) { await start(); }
  if (!answer.ok) throw Object.assign(new Error(found.error), { status: answer.status });
  return found;
}

export const exportAddress = (number, name) => `${BASE}study/${number}/export/${name}`;

export function show(...children) {
  root().replaceChildren(h("p", { id: "mm-studies-message", role: "status", "aria-live": "polite" }), ...children.flat().filter(Boolean));
}

export function say(text, bad = false) {
  const line = document.querySelector("#mm-studies-message");
  if (!line) return;
  line.textContent = text;
  line.className = bad ? "mm-problem" : "mm-said";
}

// Runs what a button does; while it runs the button rests, and an error on purpose is shown as its sentence.
export const doing = (act) => async (event) => {
  event?.preventDefault();
  const button = event?.submitter || event?.currentTarget;
  if (button && "disabled" in button) button.disabled = true;
  say("");
  try { await act(event); } catch (error) { say(error.message, true); }
  if (button?.isConnected && "disabled" in button) button.disabled = false;
};

export const button = (text, act, kind = "mm-plain", more = {}) => h("button", { type: "button", class: kind, onclick: doing(act), ...more }, text);
// A file that is chosen again, as after it was mended, counts as a change only if the field has forgotten the first choice.
export const picker = (label, accept, take, more = {}) => {
  const input = h("input", { type: "file", accept, "aria-label": label, ...more, onchange: doing(async () => {
    const file = input.files[0];
    if (!file) return;
    try { await take(file); } finally { input.value = ""; }
  }) });
  return input;
};
export const field = (label, input) => h("label", { class: "mm-field" }, h("span", {}, label), input);
const values = (form) => Object.fromEntries(new FormData(form));

function form(title, text, fields, label, act, ...more) {
  const made = h("form", { class: "mm-form", onsubmit: doing(() => act(values(made))) }, h("h3", {}, title), text ? h("p", {}, text) : null,
    ...fields, h("button", { class: "mm-solid" }, label), ...more);
  show(made);
  made.querySelector("input")?.focus({ preventScroll: true });
}

const name = (note) => field("Name", h("input", { name: "name", required: true, autocomplete: "username", maxlength: 64, placeholder: note || "" }));
const password = (kind) => field("Password", h("input", { name: "password", type: "password", required: true, autocomplete: kind, maxlength: 256 }));

export async function start() {
  const me = await ask("me");
  if (me.state === "first") {
    return form("Set up studies", "Live needs no account. A study does, so that each judgment has its rater and nobody sees what is not theirs. "
      + "This first account is the admin's: it invites the others.", [name(), password("new-password")], "Make the admin's account",
      async (sent) => { await ask("first", sent); await start(); });
  }
  if (me.state === "out") {
    return form("Sign in", "", [name(), password("current-password")], "Sign in", async (sent) => { await ask("sign-in", sent); await start(); });
  }
  await home(me);
}

export async function home(me) {
  me = me || await ask("me");
  const studies = await ask("list");
  const leads = me.role === "admin" || me.role === "researcher";
  const rows = studies.map((one) => h("button", { type: "button", class: "mm-study", "data-study": one.id,
    onclick: doing(() => (leads ? study(one.id) : work(one.id))) }, h("b", {}, one.name), h("span", {}, one.state)));
  const empty = leads ? "No study yet. Make one, or import a bundle." : "You are in no open study yet; the researcher who invited you will add you.";
  show(h("header", { class: "mm-bar-top" }, h("h3", {}, "Studies"), h("span", { class: "mm-who" }, `${me.name}, ${me.role}`),
      leads ? button("People", people) : null, button("Password", changePassword), button("Sign out", async () => { await ask("sign-out", {}); try { await start(); } catch { location.reload(); } })),
    h("div", { class: "mm-list" }, rows.length ? rows : h("p", { class: "mm-none" }, empty)),
    leads ? creation() : null);
}

function creation() {
  const made = h("form", { class: "mm-inline", onsubmit: doing(async () => {
    const found = await ask("create", { name: values(made).name, settings: {} });
    await study(found.study);
  }) }, field("New study", h("input", { name: "name", required: true, maxlength: 120, id: "mm-new-study" })), h("button", { class: "mm-solid" }, "Make it"));
  const file = picker("study bundle", ".zip", async (bundle) => {
    say("Reading the bundle.");
    await study((await ask("import", undefined, bundle)).study);
  });
  return h("div", { class: "mm-make" }, made, field("Import a bundle (zip)", file));
}

function changePassword() {
  form("Another password", "", [field("Present password", h("input", { name: "old", type: "password", required: true, autocomplete: "current-password" })),
    field("New password", h("input", { name: "new", type: "password", required: true, autocomplete: "new-password" }))], "Change it",
    async (sent) => { await ask("password", sent); await start(); say("Changed; sign in with the new one."); }, button("Back", () => home()));
}

// The page of its own that makes the account; what stands after the "#" is sent to no server and to no other site.
export const invitationLink = (token) => `${BASE}invitation#${token}`;

async function people() {
  const me = await ask("me"), accounts = await ask("people"), admin = me.role === "admin";
  const role = h("select", { "aria-label": "role" }, (admin ? ["annotator", "clinician", "researcher", "admin"] : ["annotator", "clinician"]).map((r) => h("option", {}, r)));
  const link = h("input", { readonly: true, class: "mm-link", "aria-label": "invitation link" });
  show(h("header", { class: "mm-bar-top" }, h("h3", {}, "People"), button("Back", () => home(me))),
    h("div", { class: "mm-inline" }, role, button("Make an invitation link", async () => {
      link.value = invitationLink((await ask("invite", { role: role.value })).token);
      link.select();
    }, "mm-solid"), link),
    h("p", { class: "mm-note" }, "A link makes one account within 14 days. Hand it over by a way that only its person reads."),
    h("table", { class: "mm-table" }, h("thead", {}, h("tr", {}, ["name", "role", "", ""].map((t) => h("th", {}, t)))),
      h("tbody", {}, accounts.map((one) => h("tr", {}, h("td", {}, one.name), h("td", {}, one.role), h("td", {}, one.disabled ? "disabled" : ""),
        h("td", {}, admin && one.name !== me.name ? button(one.disabled ? "Enable" : "Disable", async () => {
          await ask(`people/${one.id}`, { enabled: one.disabled });
          await people();
        }) : ""))))));
}

// Keys of the Live tab rest while this one is in front, whatever has the focus.
export const inFront = () => Boolean(root()?.offsetParent);
let keys = null;
export const listen = (handler) => { keys = handler; };
addEventListener("keydown", (event) => {
  if (!inFront()) return;
  const inside = root().contains(event.target) || event.target === document.body;
  // A button of the page's head keeps the focus when it was clicked; Enter and Space are its own, letters and digits are not.
  if (!inside && !(keys && event.key.length === 1 && event.key !== " " && event.target.closest?.("button"))) return;
  event.stopPropagation();
  if (event.ctrlKey || event.metaKey || event.altKey || !keys) return;
  keys(event);
}, true);

let begun = false;
async function begin() {
  if (begun || !inFront()) return;
  begun = true;
  try { await start(); } catch (error) { begun = false; show(); say(error.message, true); }
}
// The tab asks for nothing before it is looked at: who never opens it needs no database.
new MutationObserver(begin).observe(document.body, { attributes: true, subtree: true, attributeFilter: ["class", "style", "hidden"] });
setInterval(begin, 500);
begin();
