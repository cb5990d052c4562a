// Focus, keys, dialogs, and what the browser remembers.
"use strict";
(() => {
  const { cancel, state, token, mode, wait } = window.multimood;
  const $ = (selector) => document.querySelector(selector);

  // -- what has the focus ----------------------------------------------------------------------------------------

  // The page is redrawn while somebody works in it. Gradio reuses elements by their place and disables or hides buttons,
  // so what had the focus is found again by what it does; where it is gone for good, the next thing to do gets the focus.
  const SETTLED = 100; // ms: the parts of one update arrive one after the other
  let held = null; // the element, its command, and the ids around it
  const LEFT = { "mm-editor": "#mm-editor-back", "mm-transcript": "#mm-transcript-back" };
  const ENTRIES = ["#mm-start", "#mm-clip", "#mm-demo", "#mm-typed"];
  let entry = "#mm-start"; // where this person's last turn began
  let more = false; // whether the other strategies are shown
  let said; // the problem that stands in the page

  const usable = (element) => Boolean(element) && element.isConnected && !element.disabled && element.checkVisibility();
  const phase = () => $("#mm-now [data-phase]")?.dataset.phase;

  function hold(element) {
    const around = [];
    for (let at = element; at; at = at.parentElement) if (at.id.startsWith("mm-")) around.push(at.id);
    held = { element, command: element.dataset.do, around };
  }

  function successor() {
    const same = held.command && $(`#${held.around[0]} [data-do="${CSS.escape(held.command)}"]`);
    if (usable(same)) return same;
    if (usable(held.element)) return held.element;
    if (held.around.includes("mm-turn-buttons")) return state.turn ? $("#mm-end") : $("#mm-start");
    if (phase() === "waiting" || phase() === "working") return null; // it may come back
    const opener = { "mm-editor": "#mm-edit", "mm-transcript": "#mm-words-open" }[held.around.find((id) => id in LEFT)];
    const begin = entry === "#mm-typed" ? "#mm-typed textarea" : entry;
    return [opener, begin, "#mm-start"].map((selector) => selector && $(selector)).find(usable) || null;
  }

  function keepFocus() {
    if (!held || document.querySelector("dialog[open]") || !$("#mm-room")?.checkVisibility()) return;
    const active = document.activeElement;
    if (active === held.element && usable(active)) {
      if (!held.command || active.dataset.do === held.command) return;
    } else if (active && active !== document.body && active !== held.element) { return; }
    const next = successor();
    if (next && next !== active) next.focus();
    else if (next) hold(next);
  }

  document.addEventListener("focusin", ({ target }) => { if (!target.closest("dialog")) hold(target); }); // a dialog gives it back itself

  document.addEventListener("focusout", ({ target, relatedTarget }) => {
    if (relatedTarget) return;
    setTimeout(() => { // left on purpose: by Escape or a click beside it
      if (held?.element === target && usable(target) && document.hasFocus() && document.activeElement === document.body) held = null;
    });
  });

  function keep() {
    const details = $("#mm-panel details");
    if (details && details.open !== more) details.open = more;
    for (const accordion of document.querySelectorAll(".gr-accordion > button")) { // Gradio tells no screen reader
      accordion.setAttribute("aria-expanded", String(Boolean(accordion.nextElementSibling?.checkVisibility())));
      accordion.querySelector(".icon")?.setAttribute("aria-hidden", "true");
    }
    const problem = $("#mm-now .mm-problem")?.textContent;
    if (problem && problem !== said) $("#mm-now .mm-problem").scrollIntoView({ block: "nearest" });
    said = problem;
    alarm();
    keepFocus();
  }

  // A new alert is brought into view and named in the window's title; who types goes on typing, others are taken to it.
  // The strip that leads to it stands wherever its title is out of sight, and covers nothing where it is in sight.
  let alerted = 0, watched = null;
  const TITLE = document.title;
  const sight = new IntersectionObserver((seen) => document.body.classList.toggle("mm-alert-seen", seen.at(-1).isIntersecting));

  function alarm() {
    const alert = $("#mm-alert-area .mm-alert"), title = $("#mm-alert-title");
    if (title !== watched) {
      sight.disconnect();
      if (title) sight.observe(title);
      watched = title;
    }
    const number = Number(alert?.dataset.alert || 0);
    document.title = number ? `\u25b2 Safety alert \u00b7 ${TITLE}` : TITLE;
    if (number && number !== alerted) {
      alert.scrollIntoView({ block: "start" });
      if (!document.activeElement?.closest("textarea, input") && !document.querySelector("dialog[open]")) $("#mm-alert-title").focus();
    }
    alerted = number;
  }

  let waiting = false;
  const watcher = new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    setTimeout(() => { waiting = false; keep(); }, SETTLED);
  });

  // -- keys, notice, session -------------------------------------------------------------------------------------

  const PRESSED = { a: "#mm-accept", e: "#mm-edit", g: "#mm-again", r: "#mm-reject", w: "#mm-words-open" };
  const ENTERED = { t: "#mm-typed textarea", n: "#mm-note textarea" };

  async function focus(selector) {
    for (let i = 0; i < 20 && !usable($(selector)); i++) await wait(50);
    $(selector)?.focus();
  }

  function leave(element) {
    const editor = element.closest("#mm-editor, #mm-transcript");
    if (editor) $(LEFT[editor.id])?.click();
    else element.blur();
  }

  function goToAlert() {
    const reason = $("#mm-alert-reason textarea");
    if (!usable(reason)) return false;
    $("#mm-alert-area .mm-alert")?.scrollIntoView({ block: "start" });
    reason.focus({ preventScroll: true });
    return true;
  }

  function alongTabs(event) {
    const tabs = [...event.target.closest("[role=tablist]").querySelectorAll("[role=tab]:not([disabled])")];
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  }

  addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
    if (event.key.toLowerCase() === "s" && !event.repeat && !target.closest?.("input, textarea, select, [contenteditable=true]") && goToAlert()) {
      event.preventDefault();
      return;
    }
    if (/^Arrow(Left|Right)$/.test(event.key) && target.matches?.("[role=tab]")) { alongTabs(event); return; }
    if (!$("#mm-room")?.checkVisibility()) return; // another tab is shown
    const field = target.closest?.("input:not([type=checkbox]), textarea, select, [contenteditable=true]");
    if (event.key === "Escape") { if (field || target.closest?.("#mm-editor, #mm-transcript")) leave(target); return; }
    if (field) return;
    if (event.key === " ") {
      if (target.closest?.("button, input, summary, a, [role=button], [role=tab]")) return; // Space presses what has the focus
      event.preventDefault();
      if (!event.repeat) (state.turn ? $("#mm-end") : $("#mm-start"))?.click();
      return;
    }
    if (event.repeat) return;
    const key = event.key.toLowerCase();
    if (key === "?") $("#mm-help")?.showModal();
    else if (/^[1-7]$/.test(key)) $(`#mm-panel .mm-bar[data-key="${key}"]`)?.click();
    else if (PRESSED[key]) $(PRESSED[key])?.click();
    else if (ENTERED[key]) $(ENTERED[key])?.focus();
    else return;
    event.preventDefault();
  });

  // The second click of a double click is none: it would take back what the first has set, or be refused.
  document.addEventListener("click", (event) => {
    if (event.detail > 1 && event.target.closest?.("#mm-tab-live button")) event.stopImmediatePropagation();
  }, true);

  document.addEventListener("click", (event) => {
    entry = ENTRIES.find((selector) => event.target.closest?.(selector)) || entry;
    if (event.target.closest?.("#mm-panel summary")) more = !$("#mm-panel details").open;
    // After the mouse the keys are free again; who moves by keyboard keeps the focus.
    if (event.detail > 0 && event.target.closest?.("button, [type=checkbox]")) { document.activeElement.blur(); held = null; }
    const button = event.target.closest?.("[data-page]");
    if (!button) return;
    const what = button.dataset.page;
    if (what === "acknowledge") {
      localStorage.setItem("multimood.notice", [...readers(), who()].join("\n"));
      $("#mm-notice").close();
      $("#mm-acknowledge").click();
    } else if (what === "help") { $("#mm-help").showModal(); }
    else if (what === "notice") { $("#mm-notice").showModal(); }
    else if (what === "close") { button.closest("dialog").close(); }
    else if (what === "alert") { goToAlert(); }
    else if (what === "cancel") { cancel(); }
    else if (what === "theme") { dark(document.body.classList.toggle("dark")); }
  });

  document.addEventListener("input", (event) => { if (event.target.closest?.("#mm-typed")) entry = "#mm-typed"; });

  // Who of this browser has read the notice: each account by itself, and whoever is here where there are none.
  const readers = () => (localStorage.getItem("multimood.notice") || "").split("\n").filter(Boolean);
  const who = () => $("#mm-token [data-who]")?.dataset.who;
  const unread = () => !readers().includes(who());

  function dark(wanted) {
    document.body.classList.toggle("dark", wanted);
    localStorage.setItem("multimood.dark", wanted ? "yes" : "no");
  }

  function ready() {
    if (!token()) return;
    sessionStorage.setItem("multimood.session", token());
    mode("ready");
    const chosen = localStorage.getItem("multimood.dark");
    if (chosen) dark(chosen === "yes");
    $("#mm-follow").click();
    watcher.observe(document.body, { subtree: true, childList: true, attributeFilter: ["disabled", "class", "style", "open", "data-do", "data-mm"] });
    const notice = $("#mm-notice");
    notice.addEventListener("keydown", (event) => { if (event.key === "Escape" && unread()) event.preventDefault(); });
    // A phone's gesture closes it all the same; what was not read comes back.
    notice.addEventListener("close", () => { if (unread()) notice.showModal(); else goToNamed(); });
    if (unread()) notice.showModal(); else goToNamed();
  }

  // A link may name the tab that it leads to, as an invitation's page does; the notice, which lies in the first one, comes before.
  function goToNamed() {
    const tab = $(`#mm-tab-${CSS.escape(location.hash.slice(1))}-button`);
    if (!tab) return;
    history.replaceState(null, "", location.pathname + location.search);
    tab.click();
  }

  // After a lost connection the page follows its session again as soon as somebody does something in it.
  const follow = () => { if (token()) $("#mm-follow")?.click(); };
  for (const name of ["focus", "online", "click", "keydown"]) {
    addEventListener(name, (event) => { if (event.target?.id !== "mm-follow") follow(); });
  }

  const remembered = () => [sessionStorage.getItem("multimood.session") || "", localStorage.getItem("multimood.notice") || ""];

  Object.assign(window.multimood, { ready, focus, remembered });
})();
