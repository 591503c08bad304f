"use strict";
// The pages work without this script; it moves the board, answers the sliders and sends the form.

const POLL_MS = 3000;
const WAIT_MS = 120; // after the last movement of a slider
const $ = (id) => document.getElementById(id);

async function refresh(element) {
  const response = await fetch(element.dataset.live);
  if (!response.ok) throw new Error(response.status);
  replaceContent(element, await response.text());
}

// The focus survives: a reader with a keyboard must not start again at every tick.
function replaceContent(element, html) {
  const focused = element.contains(document.activeElement) && document.activeElement.getAttribute("href");
  element.innerHTML = html;
  if (focused) element.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function follow(element) {
  const status = $("connection");
  let poll = 0;
  let moves = 0;
  const update = async () => {
    try {
      await refresh(element);
      moves += 1;
      status.textContent = moves > 2 ? "Live: the board moves with each prediction." : "Connected: the board stands at the newest prediction.";
    } catch {
      status.textContent = "The service does not answer; this is its last state.";
    }
  };
  const source = new EventSource(element.dataset.events);
  source.addEventListener("board", update);
  source.addEventListener("open", () => { clearInterval(poll); poll = 0; });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED && !poll) poll = setInterval(update, POLL_MS);
  });
}

function keepFresh(element) {
  setInterval(() => { if (!document.hidden) refresh(element).catch(() => {}); }, Number(element.dataset.every));
}

// The static site: `frames.js` holds the board of each moment.
function replayFrames(frames) {
  const board = $("board"), play = $("play"), position = $("position"), status = $("connection");
  let timer = 0;
  const show = (i) => {
    position.value = i;
    replaceContent(board, frames[i]);
    position.setAttribute("aria-valuetext", board.querySelector(".clock")?.textContent.trim() ?? "");
  };
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); };
  const start = () => {
    if (Number(position.value) >= frames.length - 1) show(0);
    timer = setInterval(() => {
      const next = Number(position.value) + 1;
      if (next >= frames.length) stop(); else show(next);
    }, 900);
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
  };
  position.max = frames.length - 1;
  position.addEventListener("input", () => { stop(); show(Number(position.value)); });
  play.addEventListener("click", () => (timer ? stop() : start()));
  $("replay").hidden = false;
  status.textContent = "A recording of the last hours: every prediction as it was made.";
  show(frames.length - 1);
}

async function post(path, body) {
  return fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

function setUpSliders(box) {
  const answer = $("answer"), decision = $("answer-decision"), note = $("answer-note");
  const inputs = [...box.querySelectorAll("input[type=range]")];
  const buttons = [...box.querySelectorAll("[data-changes]")];
  let changes = {};
  let timer = 0;
  let asked = 0;

  const display = (input, text) => {
    box.querySelector(`output[for="${input.id}"]`).textContent = text;
  };
  const restore = (input) => {
    input.value = input.dataset.was || input.min;
    display(input, input.dataset.was ? Number(Number(input.dataset.was).toPrecision(3)) : "missing");
    input.parentElement.classList.remove("changed");
  };
  const ask = async () => {
    const number = ++asked;
    const what = Object.keys(changes).length ? "with changed inputs" : "as it was";
    try {
      const found = await whatIf(box.dataset.prediction, changes);
      if (number !== asked) return;
      answer.textContent = `${Math.round(100 * found.probability)} %`;
      decision.textContent = found.decision_text;
      decision.className = `pill ${found.decision ? "yes" : "no"}`;
      note.textContent = `version ${found.model_version}, ${what}`;
    } catch (error) {
      note.textContent = `no answer: ${error.message}`;
    }
  };
  const later = () => { clearTimeout(timer); timer = setTimeout(ask, WAIT_MS); };
  const press = (chosen) => buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === chosen)));

  inputs.forEach((input) => input.addEventListener("input", () => {
    press(null);
    for (const [name, [low, high]] of Object.entries(JSON.parse(input.dataset.features))) {
      changes[name] = Math.min(Math.max(Number(input.value), low), high);
    }
    display(input, input.value);
    input.parentElement.classList.add("changed");
    later();
  }));
  buttons.forEach((button) => button.addEventListener("click", () => {
    changes = JSON.parse(button.dataset.changes);
    press(button);
    inputs.forEach((input) => {
      restore(input);
      const name = Object.keys(JSON.parse(input.dataset.features))[0];
      if (!(name in changes)) return;
      input.value = changes[name];
      display(input, Number(changes[name].toPrecision(3)));
      input.parentElement.classList.add("changed");
    });
    ask();
  }));
  box.querySelector("[data-reset]").addEventListener("click", () => {
    changes = {};
    press(null);
    inputs.forEach(restore);
    ask();
  });
}

// The static site answers with `window.localModel`, the service with its model.
async function whatIf(prediction_id, changes) {
  if (window.localModel) return window.localModel(prediction_id, changes);
  const response = await post("/what-if", { prediction_id, changes });
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail);
  return body;
}

function setUpForm(form) {
  const error = $("ask-error"), answer = $("ask-answer");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const instance = {};
    for (const input of form.querySelectorAll("[name]")) {
      const text = input.value.trim();
      input.removeAttribute("aria-invalid");
      if (input.dataset.kind === "time") instance[input.name] = text ? `${text}:00${form.dataset.offset}` : "";
      else if (input.dataset.kind === "integer") instance[input.name] = /^-?\d+$/.test(text) ? Number(text) : text;
      else instance[input.name] = text || null;
    }
    error.hidden = true;
    try {
      const response = await post("/ask", { as_of: form.dataset.asOf, instance });
      if (response.ok) {
        answer.innerHTML = await response.text();
        return;
      }
      answer.innerHTML = "";
      showProblem(form, error, await response.json());
    } catch {
      showProblem(form, error, { detail: "the service does not answer" });
    }
  });
}

function showProblem(form, box, problem) {
  box.textContent = "";
  const heading = document.createElement("strong");
  heading.textContent = problem.errors ? "The model cannot answer this:" : problem.detail;
  box.append(heading);
  const list = document.createElement("ul");
  for (const each of problem.errors ?? (problem.hint ? [{ detail: problem.hint }] : [])) {
    const name = each.field?.split(".")[1];
    const input = name && form.querySelector(`[name="${CSS.escape(name)}"]`);
    input?.setAttribute("aria-invalid", "true");
    const label = input ? form.querySelector(`label[for="${input.id}"]`).textContent : "";
    const item = document.createElement("li");
    item.textContent = [label, each.detail].filter(Boolean).join(": ");
    list.append(item);
  }
  box.append(list);
  box.hidden = false;
}

const live = document.querySelector("[data-events]");
if (window.FRAMES && live) replayFrames(window.FRAMES);
else if (live?.dataset.events) follow(live);
document.querySelectorAll("[data-every]").forEach((element) => { if (!window.STATIC_SITE) keepFresh(element); });
if ($("sliders")) setUpSliders($("sliders"));
if ($("ask")) setUpForm($("ask"));
