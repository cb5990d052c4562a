// Automatic judges beside the people: the local one, one elsewhere that is on and agreed to for this study, or verdicts from a file.
"use strict";
import { ask, button, field, inFront, picker, say } from "./annotate.js";
import { h } from "./element.js";
import { told, turnOn } from "./remote.js";

export function judges(about, draw) {
  const place = h("div", { id: "mm-judges" }), path = `study/${about.id}/judges`;
  let timer = 0, ran = false;
  const run = (one, agreed) => async () => {
    if (one.host && !agreed.checked) throw new Error(`Tick the box first: the texts would go to ${one.host}.`);
    ran = true;
    render(await ask(path, { run: true, judge: one.key, host: one.host }));
  };
  const offer = (one, about) => {
    const gate = about.remote.find((other) => other.host === one.host);
    const agreed = h("input", { type: "checkbox", "aria-label": `send to ${one.host}` });
    return h("div", { class: "mm-judge-offer", "data-judge": one.key }, h("p", {}, h("b", {}, one.host ? one.name : "Local judge"),
        one.host ? ` scores ${one.dimensions.join(", ")}.` : ` (${one.name}) scores ${one.dimensions.join(", ")}; nothing leaves this computer.`, ` ${one.done} of ${about.wanted} pairs judged.`),
      gate ? told(gate) : null, gate?.on ? h("p", {}, "The Privacy tab turns it off.") : null,
      gate && !gate.on ? button(`Turn on ${gate.host}`, async () => { await turnOn(gate.host); render(await ask(path)); }) : null,
      gate?.on ? h("label", { class: "mm-check" }, agreed, h("span", {}, "Send the texts of this study to ", h("b", {}, one.host), `, once for each of ${about.responses} responses. `
        + "No name of a system or a rater goes along. What the de-identification left in the texts does.")) : null,
      gate && !gate.on ? null : button(one.done && one.done < about.wanted ? "Go on" : "Run it", run(one, agreed), "mm-plain", { disabled: about.running || one.done >= about.wanted }));
  };
  const render = (found) => {
    clearTimeout(timer);
    const bar = h("progress", { max: Math.max(1, found.wanted), value: found.done, "aria-label": "pairs judged" });
    const left = found.seconds_left == null ? "" : `, about ${Math.ceil(found.seconds_left / 60)} min left`;
    place.replaceChildren(h("p", { class: "mm-note" }, found.criteria.length ? `They judge ${found.criteria.join(", ")}.` : "They judge none of this study's criteria; bring verdicts in as a file."),
      ...found.judges.map((one) => offer(one, found)),
      found.judges.some((one) => one.host) ? "" : h("p", { class: "mm-note" }, "No endpoint is set. To have one, start MultiMood with MULTIMOOD_JUDGE_MODEL, and MULTIMOOD_JUDGE_URL where it is not OpenAI's."),
      found.running ? h("div", { class: "mm-inline mm-middle" }, bar, h("span", { class: "mm-progress", id: "mm-judging" }, `${found.name}: ${found.done} of ${found.wanted}${left}`),
        button("Stop", async () => render(await ask(path, { run: false })))) : "",
      found.problem ? h("p", { class: "mm-problem" }, found.problem) : "",
      field("Verdicts of another judge on the same items (JSON lines)", picker("verdicts of a judge", ".jsonl,.json", async (file) => {
        const taken = await ask(`study/${about.id}/judge`, undefined, file);
        await draw();
        say(`Verdicts on ${taken.added} pairs taken.`);
      })));
    if (found.running) timer = setTimeout(watch, 1000);
    else if (ran) { ran = false; draw().catch((error) => say(error.message, true)); }
  };
  const watch = async () => {
    if (!place.isConnected) return;
    if (!inFront()) { timer = setTimeout(watch, 1000); return; }
    try { render(await ask(path)); } catch (error) { say(error.message, true); }
  };
  ask(path).then((found) => { ran = found.running; render(found); }).catch((error) => say(error.message, true));
  return place;
}
