// Systems put through a data set: begun, watched, cancelled, gone on with, and the table in the end.
"use strict";
import { ask, button, doing, field, number, samplingFields, save, systemFields } from "./compare.js";
import { h } from "./element.js";

const POLL = 1000; // ms
const when = (seconds) => new Date(1000 * seconds).toLocaleString();
function left(seconds) {
  if (seconds == null) return "";
  return seconds < 90 ? "about a minute left" : seconds < 5400 ? `about ${Math.round(seconds / 60)} min left` : `about ${Math.round(seconds / 3600)} h left`;
}

export async function showBatches(place, choices) {
  const systems = systemFields(choices, 1, 4, 2), sampling = samplingFields(), list = h("div", { id: "mm-c-batches" });
  const data = h("select", { "aria-label": "data" }, choices.data.map((one) => h("option", { value: one.id }, one.name)), h("option", { value: "" }, "a file of mine (jsonl)"));
  const file = h("input", { type: "file", accept: ".jsonl", id: "mm-c-upload", "aria-label": "file of dialogues" }), told = h("p", { class: "mm-c-note", "aria-live": "polite" });
  const first = number(1, { min: 1, step: 1 }), count = number(5, { min: 1, step: 1 });
  const protocol = h("select", {}, h("option", { value: "gold-history" }, "gold-history (the data's)"), h("option", { value: "self-history" }, "self-history (its own)"));
  let upload = "";
  const own = field("file, one dialogue a line", file);
  const which = () => { own.hidden = data.value !== ""; told.textContent = choices.data.length ? "" : choices.no_data; };
  data.addEventListener("change", which);
  file.addEventListener("change", doing(async () => {
    upload = "";
    if (!file.files.length) return;
    const found = await ask(`upload?name=${encodeURIComponent(file.files[0].name)}`, undefined, file.files[0]);
    upload = found.upload;
    first.value = 1;
    count.value = found.dialogues;
    told.textContent = `${found.name}: ${found.dialogues} dialogues, ${found.items} items.`;
  }));
  const form = h("form", { id: "mm-c-batch-form", onsubmit: doing(async () => {
    if (!data.value && !upload) throw new Error("Choose a file of dialogues first.");
    await ask("batch", { ...(await systems.value()), data: data.value, upload: data.value ? "" : upload, first: Number(first.value), count: Number(count.value), protocol: protocol.value, sampling: sampling.value() });
    await refresh(list);
  }) }, h("div", { class: "mm-c-grid mm-c-wide" }, field("data", data), own, field("labels in the history", protocol), field("first dialogue", first), field("dialogues", count)), told,
  systems.element, sampling.element, h("button", { class: "mm-solid", id: "mm-c-batch-start" }, "Begin"));
  which();
  place.replaceChildren(form, list);
  await refresh(list);
}

let looking = null;
async function refresh(list) {
  const mine = {};
  looking = mine;
  while (looking === mine && list.isConnected) {
    const found = await ask("batches");
    if (looking !== mine) return;
    const again = () => refresh(list);
    const text = JSON.stringify(found);
    if (list.dataset.last !== text) {
      list.dataset.last = text;
      const shown = new Map([...list.children].map((one) => [one.dataset.id, one]));
      const active = document.activeElement?.closest?.("[data-id]")?.dataset.id, label = document.activeElement?.textContent;
      list.replaceChildren(...found.map((one) => row(one, again, shown.get(one.id))));
      if (active) [...list.querySelectorAll(`[data-id="${active}"] button`)].find((one) => one.textContent === label)?.focus();
    }
    if (!found.some((one) => one.running)) return;
    await new Promise((done) => setTimeout(done, POLL));
  }
}

function row(one, again, before) {
  const act = (name) => async () => { await ask(`batch/${one.id}`, { do: name }); await again(); };
  const complete = one.scored && !one.running, table = before?.querySelector(".mm-scroll") || h("div", { class: "mm-scroll", tabindex: 0, role: "group", "aria-label": "table" });
  if (complete && !table.childElementCount) ask(`batch/${one.id}`).then((found) => table.replaceChildren(tabled(found.table)), (error) => table.replaceChildren(error.message));
  return h("section", { class: "mm-c-batch", "data-id": one.id }, h("h4", {}, one.name, h("small", {}, ` ${one.systems.join(", ")} · ${one.protocol} · ${when(one.made)}`)),
    h("div", { class: "mm-c-end" }, h("progress", { max: Math.max(1, one.wanted), value: one.done, "aria-label": "progress" }), h("span", { class: "mm-c-count" }, `${one.done} of ${one.wanted}`),
      h("span", { class: "mm-c-note" }, one.running ? `${one.now} · ${left(one.seconds_left) || "time left follows"}` : complete ? "complete" : "stopped"),
      one.running ? button("Cancel", act("cancel")) : null, !one.running && !one.scored ? button("Go on", act("run"), "mm-solid") : null,
      complete ? [["CSV", "items.csv"], ["JSON", "results.json"], ["Preference pairs", "preferences.jsonl"]].map(([text, name]) => button(text, () => save(`batch/${one.id}/${name}`))) : null,
      one.running ? null : button("Delete", async () => { if (confirm(`Delete the batch on ${one.name} with its results?`)) await act("delete")(); })),
    one.problem ? h("p", { class: "mm-problem" }, one.problem) : null, complete ? table : null);
}

function tabled(found) {
  return [h("table", {}, h("caption", {}, `${found.n} items, ${found.protocol}. ${found.note || "In grey: baselines that need no model."} Under each figure its 95 % interval over dialogues.`),
    h("thead", {}, h("tr", {}, found.header.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, found.rows.map((row) => h("tr", { class: row.baseline ? "mm-c-grey" : "" }, row.cells.map((cell, i) => h(i ? "td" : "th", i ? {} : { scope: "row" }, cell, row.spans[i] ? h("small", {}, row.spans[i]) : null))))))][0];
}
