// The researcher's page of one study: set-up, gold of the entrance test, raters, results, files.
"use strict";
import { ask, button, doing, exportAddress, field, home, inFront, invitationLink, listen, picker, root, say, show } from "./annotate.js";
import { h } from "./element.js";
import { judges } from "./annotate_judges.js";
import { sheet, shown, takesEnter } from "./annotate_sheet.js";

let tab = "Set-up", timer = 0;

export async function study(number) {
  clearTimeout(timer);
  listen(null);
  const about = await ask(`study/${number}`);
  const parts = { "Set-up": setup, Raters: raters, Results: findings, Files: files };
  const again = (name) => { if (name) tab = name; return study(number); };
  show(h("header", { class: "mm-bar-top" }, h("h3", {}, about.name), h("span", { class: "mm-state", id: "mm-state" }, about.state + (about.imported ? ", imported" : "")),
      h("span", { class: "mm-progress" }, about.state === "draft" ? "" : `${about.pairs.settled} settled, ${about.pairs.open} open`),
      about.imported ? null : door(about, again), button("All studies", () => { clearTimeout(timer); return home(); })),
    h("nav", { class: "mm-parts" }, Object.keys(parts).map((name) => button(name, () => again(name), name === tab ? "mm-plain mm-here" : "mm-plain", { "aria-current": String(name === tab) }))),
    h("div", { id: "mm-part" }));
  root().querySelector("#mm-part").append(...[await parts[tab](about, again)].flat());
}

function door(about, again) {
  if (about.state === "open") return button("Close the study", async () => { await ask(`study/${about.id}/state`, { state: "closed" }); await again(); });
  return button(about.state === "draft" ? "Open the study" : "Open again", async () => { await ask(`study/${about.id}/state`, { state: "open" }); await again("Raters"); },
    "mm-solid", { id: "mm-open" });
}

const card = (title, ...children) => h("section", { class: "mm-card" }, h("h4", {}, title), ...children);
const number = (name, value, more = {}) => h("input", { type: "number", name, value, ...more });

function setup(about, again) {
  const draft = about.state === "draft", s = about.settings;
  const send = async (path, body, file) => { const found = await ask(`study/${about.id}/${path}`, body, file); await again(); return found; };
  const missing = draft ? card("Before it can open", about.missing.length ? h("ul", { class: "mm-missing" }, about.missing.map((one) => h("li", {}, one)))
    : h("p", {}, "Everything is there.")) : null;
  const form = h("form", { class: "mm-grid", onsubmit: doing(async () => {
    const v = Object.fromEntries(new FormData(form));
    await send("settings", { overlap: +v.overlap, gate_size: +v.gate_size, gate_kappa: +v.gate_kappa, attention_every: +v.attention_every,
      break_minutes: +v.break_minutes, seed: +v.seed, support: v.support, hidden_names: v.hidden_names.split(",") });
    say("Kept.");
  }) }, field("First raters of each item", number("overlap", s.overlap, { min: 1, max: 3 })), field("Items in the entrance test (0: none)", number("gate_size", s.gate_size, { min: 0 })),
    field("Kappa to exceed in it", number("gate_kappa", s.gate_kappa, { min: 0, max: 0.99, step: 0.01 })), field("Attention check after (0: none)", number("attention_every", s.attention_every, { min: 0 })),
    field("Suggest a break after minutes", number("break_minutes", s.break_minutes, { min: 5, max: 240 })), field("Random seed", number("seed", s.seed)),
    field("Whom raters can turn to", h("input", { name: "support", value: s.support, placeholder: "name, telephone, hours" })),
    field("Names to take out of every text", h("input", { name: "hidden_names", value: s.hidden_names.join(", "), placeholder: "separated by commas" })),
    draft ? h("button", { class: "mm-solid" }, "Keep the settings") : null);
  if (!draft) form.querySelectorAll("input").forEach((one) => { one.disabled = true; });
  return [missing, card("Items", items(about, send, draft)), card("Systems", systems(about, send, draft, again)), draft ? card("Gold of the entrance test", gold(about, again)) : null,
    card("Settings", form), card(`Guideline, version ${about.guideline_version}`, guideline(about, send))].filter(Boolean);
}

function items(about, send, draft) {
  const { items: kinds } = about;
  const line = h("p", { id: "mm-items" }, `${kinds.official || 0} official, ${kinds.gate || 0} for the entrance test (${about.gold} with gold)`);
  if (!draft) return line;
  const upload = picker("items with responses", ".jsonl,.json", async (file) => {
    say("Reading the items.");
    say(`${(await send("upload", undefined, file)).added} items taken.`);
  }, { id: "mm-upload" });
  const source = h("input", { type: "file", id: "mm-dialogues", accept: ".jsonl", "aria-label": "dialogues" }), count = number("count", 50, { min: 1, id: "mm-count" });
  const kind = h("select", { "aria-label": "what for" }, h("option", { value: "official" }, "the study"), h("option", { value: "gate" }, "the entrance test"));
  const by = h("select", { "aria-label": "how" }, h("option", { value: "labels" }, "by strategy and emotion"), h("option", { value: "chance" }, "by chance alone"));
  const person = h("input", { type: "checkbox", "aria-label": "the therapist's own turn is a system" });
  return [line, field("Items with responses, or further responses by id (JSON lines; with gold: entrance test)", upload),
    h("div", { class: "mm-inline" }, field("Or draw from dialogues (JSON lines)", source), field("how many", count), field("for", kind), field("how", by),
      h("label", { class: "mm-check" }, person, "the therapist's own turn is a system"), button("Draw items", async () => {
        if (!source.files[0]) throw new Error("Choose a file of dialogues first.");
        const found = await send(`sample?kind=${kind.value}&count=${count.value}&by=${by.value}&person=${person.checked ? 1 : 0}`, undefined, source.files[0]);
        say(`${found.added} items drawn.`);
      }, "mm-plain", { id: "mm-draw" })),
    h("div", { id: "mm-preview" }), h("div", { class: "mm-inline" }, button("Look at the items", () => preview(about, 0), "mm-plain", { id: "mm-look" }),
      about.systems.length || Object.keys(kinds).length ? startOver(send) : null),
    h("p", { class: "mm-note" }, "Mail and web addresses, numbers, dates, titled and listed names are taken out when items are stored. Other names may remain: look before you open.")];
}

function startOver(send) {
  const sure = button("Take all items and systems out", () => {
    sure.replaceWith(button("Yes, take them out", () => send("clear", {}), "mm-solid"));
  });
  return sure;
}

async function preview(about, from) {
  const rows = await ask(`study/${about.id}/preview?from=${from}`), place = root().querySelector("#mm-preview");
  const more = rows.length ? button("More", () => preview(about, rows.at(-1).id)) : null;
  if (!from) place.replaceChildren();
  place.querySelector("button")?.remove();
  if (!rows.length) { place.append(h("p", { class: "mm-note" }, "These are all.")); return; }
  place.append(...rows.map((r) => h("details", { class: "mm-item" }, h("summary", {}, h("b", {}, r.key), ` ${r.kind === "gate" ? "entrance test" : r.kind}: ${r.turns.at(-1).text}`),
    h("p", { class: "mm-situation" }, [r.problem, r.situation].filter(Boolean).join(". ")), r.turns.map((t) => h("p", {}, h("b", {}, t.speaker), ` ${t.text}`)),
    r.responses.map((one) => h("p", { class: "mm-note" }, h("b", {}, one.system || "gold item"), ` ${one.text}`)))), more);
}

function systems(about, send, draft, again) {
  const list = h("ul", { class: "mm-plainlist" }, about.systems.map((s) => h("li", {}, h("b", {}, s.name), ` ${s.kind}, ${s.responses} responses`, s.checkpoint_sha256 ? ` · ${s.checkpoint_sha256.slice(0, 12)}` : "")));
  if (!draft) return list;
  const choices = h("div", { class: "mm-inline" });
  ask("choices").then(({ checkpoints }) => {
    const known = new Set(about.systems.map((s) => s.name));
    choices.replaceChildren(...checkpoints.filter((name) => !known.has(name)).map((name) => button(`Add ${name}`, () => send("checkpoints", { names: [name] }))));
  }).catch((error) => say(error.message, true));
  const bar = h("progress", { max: 1, value: 0, "aria-label": "responses written" }), told = h("span", { class: "mm-progress", id: "mm-writing" });
  const watch = async () => {
    clearTimeout(timer);
    if (!bar.isConnected) return;
    const s = await ask(`study/${about.id}/writing`);
    bar.max = Math.max(1, s.wanted); bar.value = s.done;
    told.textContent = `${s.done} of ${s.wanted}` + (s.running ? s.seconds_left == null ? ", writing" : `, about ${Math.ceil(s.seconds_left / 60)} min left` : "") + (s.problem ? `. ${s.problem}` : "");
    if (s.running) timer = setTimeout(() => inFront() && watch().catch(() => {}), 1000);
    else if (told.dataset.ran) { delete told.dataset.ran; if (!s.problem) await again(); }
  };
  setTimeout(() => watch().catch(() => {}), 0);
  const run = (go) => async () => { if (go) told.dataset.ran = "1"; await ask(`study/${about.id}/writing`, { run: go }); await watch(); };
  return [list, choices, h("div", { class: "mm-inline mm-middle" }, button("Write the missing responses", run(true), "mm-plain", { id: "mm-write" }), button("Stop", run(false)), bar, told)];
}

// Judged as raters judge: by keys, not told which system is which.
function gold(about, again) {
  const place = h("div", { id: "mm-gold" });
  let kept = 0;
  const next = async () => {
    const { task } = await ask(`study/${about.id}/gold`);
    listen(null);
    if (!task && kept) { await again(); say(`Gold of ${kept} items kept; none waits any more.`); return; }
    if (!task) { place.replaceChildren(h("p", {}, "No drawn item waits for gold. Uploaded items bring theirs.")); return; }
    const chosen = {}, form = sheet(about.criteria, chosen);
    const keep = async () => {
      const open = form.missing();
      if (open) throw new Error(`${open} is still open: press 1, 2 or 3.`);
      await ask(`study/${about.id}/gold`, { pair: task.pair, verdicts: chosen });
      kept += 1;
      await next();
    };
    place.replaceChildren(h("p", { class: "mm-note" }, `${task.left} wait. Judge as the guideline says: 1, 2, 3 choose, arrows move, Enter keeps. You are not told which system is which.`),
      shown(task), form.element, button("Keep as gold (Enter)", keep, "mm-solid", { id: "mm-enter" }));
    form.focus();
    listen((event) => {
      if (event.target.closest?.("input, textarea, select") || form.press(event)) return;
      if (event.key === "Enter" && !takesEnter(event.target)) doing(keep)(event);
    });
  };
  place.append(button("Judge drawn items", next));
  return place;
}

function guideline(about, send) {
  const rows = about.criteria.map((c) => ({ key: c.key, fields: ["name", "definition", "good", "bad"].map((name) => [name, h("textarea", { rows: name === "name" ? 1 : 2, "aria-label": `${c.key} ${name}` }, c[name])]) }));
  return h("details", {}, h("summary", {}, about.criteria.map((c) => c.name).join(", ")), rows.map((r) => h("div", { class: "mm-reword" }, h("b", {}, r.key), r.fields.map(([, area]) => area))),
    about.imported ? null : button("Keep as a new version", () => send("criteria", { criteria: rows.map((r) => ({ key: r.key, ...Object.fromEntries(r.fields.map(([name, area]) => [name, area.value])) })) })));
}

async function raters(about, again) {
  const accounts = await ask("people"), link = h("input", { readonly: true, class: "mm-link", id: "mm-invitation", "aria-label": "invitation link" });
  const inside = new Set(about.raters.filter((r) => !r.removed).map((r) => r.name));
  const who = h("select", { "aria-label": "account" }, accounts.filter((a) => !a.disabled && ["annotator", "clinician"].includes(a.role) && !inside.has(a.name)).map((a) => h("option", { value: a.id }, a.name)));
  const act = (r, what) => async () => { await ask(`study/${about.id}/raters/${r.id}`, { do: what }); await again(); };
  const gate = (r) => r.gate.map((g) => `round ${g.round} ${g.passed ? "passed" : "not passed"} (${Object.values(g.kappas).map((k) => (k == null ? "–" : k.toFixed(2))).join(" ")})`).join("; ") || "–";
  const waits = about.pairs;
  return [card("What needs somebody", h("p", { id: "mm-waits" }, `${waits.queues.fourth} wait for a fourth rater, ${waits.queues.third} for a third, ${waits.queues.begun} for another first one, ${waits.queues.new} nobody has begun.`),
      !inside.size ? h("p", { class: "mm-note" }, "Nobody judges in this study yet: invite raters below.")
        : waits.without_rater ? h("p", { class: "mm-problem" }, `${waits.without_rater} of these have been before all present raters: add another rater.`) : null,
      waits.aside.length ? h("div", {}, h("p", {}, "Set aside, as raters could not judge them:"), waits.aside.map((p) => button(`${p.key}: put back`, async () => { await ask(`study/${about.id}/put-back`, { pair: p.id }); await again(); }))) : null),
    card("Raters", h("div", { class: "mm-scroll" }, h("table", { class: "mm-table" }, h("thead", {}, h("tr", {}, ["rater", "account", "judged", "open", "could not", "in distress", "entrance test: kappas", ""].map((t) => h("th", {}, t)))),
      h("tbody", {}, about.raters.map((r) => h("tr", {}, h("td", {}, r.code), h("td", {}, r.name || "–"), h("td", {}, String(r.judged)), h("td", {}, String(r.open)), h("td", {}, String(r.declined)), h("td", {}, String(r.distressed)), h("td", {}, gate(r)),
        h("td", {}, r.removed ? "left" : about.imported ? "" : [button("Give back open items", act(r, "release")), button("Remove", act(r, "remove"))])))))),
      about.imported ? null : h("div", { class: "mm-inline" }, button("Invite a new annotator", async () => { link.value = invitationLink((await ask("invite", { role: "annotator", study: about.id })).token); link.select(); }, "mm-solid", { id: "mm-invite" }), link),
      about.imported || !who.options.length ? null : h("div", { class: "mm-inline" }, who, button("Add this account", async () => { if (who.value) { await ask(`study/${about.id}/raters`, { account: +who.value }); await again(); } })))];
}

async function findings(about) {
  const place = h("div", { id: "mm-results" });
  const draw = async () => {
    // The server's own template, in which everything that a person wrote is escaped.
    const open = new Set([...place.querySelectorAll("details")].map((one, i) => (one.open ? i : -1)));
    place.innerHTML = (await ask(`study/${about.id}/results`)).html;
    place.querySelectorAll("details").forEach((one, i) => { one.open = open.has(i); });
  };
  const follow = () => {
    if (about.state === "open") timer = setTimeout(async () => {
      if (!place.isConnected) return;
      try { if (inFront() && !document.hidden) await draw(); } catch (error) { say(error.message, true); }
      follow();
    }, 5000);
  };
  await draw();
  follow();
  return [place, about.imported || about.state === "draft" ? null : card("Automatic judges", judges(about, draw))].filter(Boolean);
}

function files(about) {
  const names = { "judgments.csv": "Judgments as CSV", "judgments.jsonl": "Judgments as JSON lines", "preferences.jsonl": "Preference pairs for training (overall)", "bundle.zip": "Frozen bundle, to keep or to import again", "report.html": "Report to print" };
  return card("Take out", h("ul", { class: "mm-plainlist" }, Object.entries(names).map(([name, text]) => h("li", {}, h("a", { href: exportAddress(about.id, name), ...(name === "report.html" ? { target: "_blank", rel: "noopener" } : { download: "" }) }, text)))));
}
