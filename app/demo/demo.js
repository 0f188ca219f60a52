// The page: takes an order from the composer, has it painted on the stage, and keeps the pictures in the gallery.

import * as composer from "./composer.js";
import * as gallery from "./gallery.js";
import * as shelf from "./shelf.js";
import * as stage from "./stage.js";
import { models, paint } from "./stream.js";
import { forget, on } from "./tiles.js";
import * as viewer from "./viewer.js";
import { many, name } from "./words.js";

const $ = (id) => document.getElementById(id);
const EXAMPLES = [
  "a red apple", "a lonely robot who lost its way", "a rocket leaving for mars tonight", "three hearts",
  "an owl to the left of a mushroom", "a snowman who loves july",
];
const TOAST = 8000; // ms

let running = null; // AbortController
let last = null; // the order that was painted last
let key = session("key");

function session(name, value) {
  try {
    if (value !== undefined) sessionStorage.setItem(name, value);
    return sessionStorage.getItem(name);
  } catch {
    return value ?? null; // storage is refused: the key holds until the page is left
  }
}

async function generate(order) {
  if (running || !order) return;
  running = new AbortController();
  last = order;
  $("go").setAttribute("aria-disabled", "true");
  stage.begin(order);
  gallery.render(); // what was on the stage goes to the gallery
  reveal($("stage"));
  const { prompt, seed, base, keep } = order;
  const settings = Object.fromEntries(["temperature", "top_k", "top_p", "guidance"].flatMap((field) => (field in order ? [[field, order[field]]] : [])));
  const created = Date.now();
  try {
    for await (const event of paint(order, key, running.signal)) {
      let record = null;
      if (event.kind === "finished") {
        record = { created, prompt, seed, index: order.index + event.position, settings, rows: event.total, png: event.png };
        if (base) Object.assign(record, { base, keep });
        if (event.revised) record.revised = event.revised;
        if (event.style) record.style = event.style;
        if (order.model) record.model = order.model;
        await gallery.keep(record);
      }
      composer.learn(event.total);
      stage.take(event, record);
    }
    stage.end("done");
  } catch (error) {
    const stopped = running.signal.aborted;
    stage.end(stopped ? "stopped" : "failed");
    if (!stopped && !complain(error)) {
      stage.fail(error);
      $("problem").scrollIntoView({ block: "nearest", behavior: pace() }); // it may be above what is in sight
    }
  } finally {
    running = null;
    $("go").removeAttribute("aria-disabled");
  }
}

// Shows what the server says of a field at that field, if the form has it.
function complain({ param, message }) {
  if (!param || !composer.complain(param, message.replace(param, composer.label(param)))) return false;
  composer.show(param);
  return true;
}

async function offer() {
  composer.offer(await models(key));
}

function cancel() {
  running?.abort();
}

const pace = () => (matchMedia("(prefers-reduced-motion: reduce)").matches ? "instant" : "smooth");

// Scrolls a part of the page into sight, unless a good deal of it is.
function reveal(part) {
  if (part.getBoundingClientRect().top > innerHeight * 0.6) part.scrollIntoView({ block: "start", behavior: pace() });
}

function paintOn(record) {
  composer.attach(record.png, record.rows);
  composer.useModel(record);
  composer.useStyle(record);
  $("prompt").value = record.prompt;
  scrollTo({ top: 0, behavior: pace() });
  $("keep").focus({ preventScroll: true });
}

function again(record) {
  composer.fill(record);
  composer.fold(false);
  scrollTo({ top: 0, behavior: pace() });
  $("prompt").focus({ preventScroll: true });
}

async function remove(record) {
  const place = gallery.placeOf(record);
  const staged = stage.shown.has(record);
  await gallery.remove(record);
  draw();
  if (place >= 0) gallery.focus(place);
  else $("prompt").focus();
  toast("Picture deleted", async () => {
    if (staged) stage.shown.add(record);
    await gallery.keep(record);
    draw();
  }, () => forget(record));
}

function draw() {
  stage.redraw();
  gallery.render();
}

let pending = null; // what becomes final when the toast goes

function toast(text, undo, final) {
  dismiss();
  $("toast-text").textContent = text;
  $("toast").hidden = false;
  pending = { undo, final, timer: setTimeout(dismiss, TOAST) };
}

function dismiss() {
  if (!pending) return;
  clearTimeout(pending.timer);
  pending.final();
  pending = null;
  hideToast();
}

function hideToast() {
  if ($("toast").contains(document.activeElement)) $("prompt").focus();
  $("toast").hidden = true;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) generate(composer.order());
});
$("cancel").addEventListener("click", cancel);
$("retry").addEventListener("click", () => generate(last));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = session("key", $("key").value.trim());
  $("key").value = "";
  offer();
  generate(last);
});
$("seed-copy").addEventListener("click", () => viewer.copyText(name(last), $("seed-copy")));
$("seed-again").addEventListener("click", () => {
  composer.useSeed(last);
  composer.show("seed");
});
$("undo").addEventListener("click", () => {
  const { undo, timer } = pending;
  clearTimeout(timer);
  pending = null;
  hideToast();
  undo();
});
$("clear").addEventListener("click", () => {
  $("confirm-text").textContent = `${many(gallery.records.length, "picture is", "pictures are")} kept in this browser. This cannot be undone.`;
  $("confirm").showModal();
});
$("confirm").addEventListener("close", async () => {
  if ($("confirm").returnValue !== "yes") return;
  $("confirm").returnValue = "";
  dismiss();
  await gallery.clear();
  draw();
  $("prompt").focus();
  stage.announce("All pictures deleted", true);
});
$("model").addEventListener("change", shelf.show);
$("n").addEventListener("input", () => {
  if (stage.state() === "idle") stage.empty($("n").valueAsNumber);
});
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") cancel();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target !== $("prompt")) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
function suggest(text) {
  $("prompt").value = text;
  composer.complain("prompt", "");
  $("prompt").focus();
}

$("examples").replaceChildren(...EXAMPLES.map((text) => {
  const item = document.createElement("li");
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  button.addEventListener("click", () => suggest(text));
  item.append(button);
  return item;
}));

const above = (text) => { suggest(text); scrollTo({ top: 0, behavior: pace() }); };
Object.assign(on, { open: viewer.open, paintOn, choose: above });
composer.start();
offer();
shelf.start(() => key, () => $("model").value, above);
viewer.start({ paintOn, again, remove });
stage.empty($("n").valueAsNumber);
gallery.start().then(() => gallery.records.length && composer.learn(gallery.records[0].rows));
