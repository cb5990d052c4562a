// The page behind an invitation's link: makes the account, then opens the Annotate tab.
"use strict";

const form = document.querySelector("form"), problem = document.querySelector("[role=alert]"), button = form.querySelector("button");
const token = location.hash.slice(1);
if (!token) problem.textContent = "This link is not whole; open it as it was sent, with what stands after the #.";

async function accept() {
  const sent = { ...Object.fromEntries(new FormData(form)), token };
  const answer = await fetch(new URL("accept", location.href), { method: "POST", credentials: "same-origin",
    headers: { "X-MultiMood": "1", "Content-Type": "application/json" }, body: JSON.stringify(sent) });
  const found = await answer.json().catch(() => ({ error: `Something went wrong (${answer.status}); try again.` }));
  if (!answer.ok) throw new Error(found.error);
  location.assign(new URL("../../#annotate", location.href));
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  problem.textContent = "";
  try { await accept(); } catch (error) {
    problem.textContent = error instanceof TypeError ? "MultiMood cannot be reached; try again in a moment." : error.message;
    button.disabled = false;
  }
});
