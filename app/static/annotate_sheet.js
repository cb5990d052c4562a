// One item as it is judged: the dialogue, A and B, and a row for each criterion. Raters and the author of the gold use the same.
"use strict";
import { h } from "./element.js";

export const PLACES = ["a", "tie", "b"];
export const LABELS = { a: "A better", tie: "tie", b: "B better" };

export function shown(task) {
  const turns = h("div", { class: "mm-turns", tabindex: 0, role: "region", "aria-label": "turns" }, task.turns.map((turn) =>
    h("p", { class: `mm-${turn.speaker}` }, h("b", {}, turn.speaker), " ", turn.text)));
  const made = h("div", { class: "mm-judge" },
    h("section", { class: "mm-context", "aria-label": "the dialogue" },
      task.problem || task.situation ? h("p", { class: "mm-situation" }, [task.problem, task.situation].filter(Boolean).join(". ")) : null, turns),
    h("section", { class: "mm-two" }, ["a", "b"].map((side) => h("article", { class: "mm-response" }, h("h4", {}, side.toUpperCase()), h("p", {}, task[side])))));
  requestAnimationFrame(() => { turns.scrollTop = turns.scrollHeight; });
  return made;
}

// Rows of A better, tie, B better. `chosen` (criterion -> place) is the caller's own object; `rests` says when nothing may be chosen.
export function sheet(criteria, chosen, rests = () => false) {
  const open = () => criteria.findIndex((one) => !chosen[one.key]);
  let row = Math.max(0, open());
  const choose = (at, place) => {
    if (rests()) return;
    chosen[criteria[at].key] = place;
    row = Math.min(at + 1, criteria.length - 1);
    mark();
  };
  const element = h("div", { class: "mm-criteria", id: "mm-criteria", tabindex: -1 }, criteria.map((one, i) =>
    h("div", { class: "mm-criterion", role: "radiogroup", "aria-label": one.name, "data-key": one.key }, h("span", { class: "mm-name", title: one.definition }, one.name),
      PLACES.map((place, j) => h("button", { type: "button", role: "radio", "data-place": place, onclick: () => choose(i, place) },
        h("kbd", { "aria-hidden": "true" }, String(j + 1)), LABELS[place])))));
  const mark = () => [...element.children].forEach((line, i) => {
    line.classList.toggle("mm-here", i === row);
    line.querySelectorAll("button").forEach((one, j) => { // one stop of the Tab key for each row
      const here = chosen[line.dataset.key];
      one.setAttribute("aria-checked", String(here === one.dataset.place));
      one.tabIndex = (here ? here === one.dataset.place : j === 0) ? 0 : -1;
    });
  });
  const move = (step) => { row = Math.min(criteria.length - 1, Math.max(0, row + step)); mark(); };
  mark();
  return { element,
    // Puts the focus where Tab leads to the first row and Enter presses no button.
    focus() { element.focus({ preventScroll: true }); },
    // The name of a criterion that is still open, which is then marked; "" where all are chosen.
    missing() { const at = open(); if (at >= 0) { row = at; mark(); } return at < 0 ? "" : criteria[at].name; },
    // Whether the key was the sheet's own.
    press(event) {
      if (/^[123]$/.test(event.key)) choose(row, PLACES[Number(event.key) - 1]);
      else if (event.key === "ArrowDown") move(1);
      else if (event.key === "ArrowUp") move(-1);
      else return false;
      event.preventDefault();
      return true;
    } };
}

// Whether Enter belongs to what has the focus: a radio is chosen with Space, so that Enter always goes on.
export const takesEnter = (target) => Boolean(target.closest?.("button:not([role=radio]):not(#mm-enter), a, summary"));
