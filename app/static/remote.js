// A model elsewhere: its host, what it is told or would be, and the one switch before it, wherever a page can ask it.
"use strict";
import { h } from "./element.js";

const SWITCH = new URL("../privacy/remote", import.meta.url).href;
const PURPOSES = { compare: "As a system in Compare", study: "As a judge in a study" };

export function told(one) {
  return [h("p", {}, h("b", {}, one.host), one.on ? " is on. It is told, as text alone:" : " is off. If it were on, it would be told, as text alone:"),
    h("ul", { class: "mm-told" }, one.uses.map((use) => h("li", {}, `${PURPOSES[use.purpose]} (${use.model}): ${use.fields.join(", ").replaceAll("-", " ")}`))),
    h("p", {}, "Sound and pictures never leave, nor what face and voice show. The log says when it was asked.")];
}

export async function turnOn(host) {
  let answer;
  try {
    answer = await fetch(SWITCH, { method: "POST", credentials: "same-origin", headers: { "X-MultiMood": "1", "Content-Type": "application/json" }, body: JSON.stringify({ on: true, host }) });
  } catch { throw new Error("MultiMood cannot be reached; try again in a moment."); }
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || `Something went wrong (${answer.status}); try again.`);
}
