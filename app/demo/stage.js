// Where the pictures of the last order are painted: their tiles, how far it is, how long it takes, what went wrong.

import { Tile, make, on } from "./tiles.js";
import { many, name, refusal, time } from "./words.js";

const $ = (id) => document.getElementById(id);
const LAYOUTS = { 1: [1, "22rem"], 2: [2, "22rem"], 3: [3, "20rem"], 6: [3, "15rem"], 7: [4, "14rem"], 8: [4, "14rem"] };
const ANNOUNCE = 10_000; // ms between two announcements of progress, at least

export const shown = new Set(); // records whose pictures are on the stage, and so not in the gallery
let tiles = [];
let given = ""; // address of the picture that is painted on
let began = 0; // ms
let due = null; // ms at which all will be painted, null while that is not known
let queue = 0;
let done = 0; // 0 to 1
let fit = ""; // "known", "near", "unknown", or "" while that is not known
let closest = "";
let missing = ""; // the style that was asked for, if it does not know the thing
let first = ""; // the style that is painted then
let asked = "";
let revised = ""; // the text that is painted, if it is another than was asked for
let clock = 0;
let announced = { at: 0, text: "" };

export const state = () => $("stage").dataset.state;

function lay(labels) {
  tiles = labels.map((label) => new Tile(label));
  const [columns, widest] = LAYOUTS[labels.length] || [labels.length < 5 ? labels.length : 5, "18rem"];
  $("tiles").style.setProperty("--columns", columns);
  $("tiles").style.setProperty("--widest", widest);
  $("tiles").replaceChildren(...tiles.map((tile) => tile.element));
}

// n empty tiles, as many as would be painted.
export function empty(n) {
  lay(Array(n).fill("Empty"));
  shown.clear();
  $("stage").dataset.state = "idle";
  $("tiles").ariaHidden = "true";
  $("cancel").hidden = true;
}

export function begin(order) {
  lay(Array.from({ length: order.n }, (_, i) => (order.n > 1 ? `${order.prompt}, picture ${i + 1} of ${order.n}` : order.prompt)));
  tiles.forEach((tile) => tile.wait());
  URL.revokeObjectURL(given);
  if (order.base) {
    given = URL.createObjectURL(order.base);
    tiles.forEach((tile) => tile.give(given, order.keep / order.rows));
  }
  shown.clear();
  $("stage").dataset.state = "painting";
  $("tiles").ariaHidden = null;
  $("cancel").hidden = false;
  if ($("problem").contains(document.activeElement)) $("cancel").focus();
  solve();
  $("seed-shown").textContent = name(order);
  [began, due, queue, done, revised, fit, closest, missing] = [Date.now(), null, 0, 0, "", "", "", ""];
  [asked, first] = [order.prompt, order.first];
  judge();
  clock = setInterval(tell, 500);
  tell();
  announce(`Painting ${many(order.n, "picture")}.`, true);
}

// An event of the stream. A finished picture comes with its record.
export function take(event, record) {
  const tile = tiles[event.position];
  if (!event.style) revised = event.revised || revised; // a picture in a style has a text of its own
  first = event.style || first;
  if (event.fit) {
    [fit, closest, missing] = [event.fit, event.closest || "", event.missing || ""];
    judge();
  }
  if (event.kind === "partial") tile.partial(event.url, event.rows, event.total);
  if (event.kind === "finished") {
    tile.finish(record);
    shown.add(record);
  }
  if (event.kind === "progress") {
    queue = event.queue;
    due = event.left === null ? null : Date.now() + 1000 * event.left;
    done = event.rows.reduce((sum, rows) => sum + rows, 0) / (event.total * event.rows.length);
  }
  tell();
}

function tell() {
  const left = due === null ? "" : `${time((due - Date.now()) / 1000)} left`;
  const [what, more] = queue
    ? ["Waiting", [`${many(queue, "picture")} before yours`, left].filter(Boolean).join(", ")]
    : [revised ? `Painting “${revised}”` : "Painting", left];
  say(what, more);
  $("progress").value = done;
  document.title = `${queue ? "Waiting" : `${Math.floor(100 * done)} %`} · dalle-server`;
  announce([what, more].filter(Boolean).join(", "));
}

// Says in words what the pictures leave out of the prompt, and offers the thing that is nearest to an unknown one.
function judge() {
  const prompt = asked.length > 80 ? `${asked.slice(0, 79)}…` : asked;
  const words = {
    near: missing ? `I know “${revised || prompt}”, but not in ${missing}. So it is painted ${first}.` : revised && `That is the nearest that I can paint: ${revised}.`,
    unknown: `I don’t know “${prompt}”${revised ? `, so I paint ${revised}` : ""}.`,
  };
  const offered = make("button", "", { type: "button", textContent: closest });
  offered.addEventListener("click", () => on.choose(offered.textContent));
  const parts = [words[fit] || "", ...(closest ? [" Closest: ", offered] : [])];
  const said = parts.map((part) => part.textContent ?? part).join("");
  if ($("fit").textContent === said) return;
  $("fit").replaceChildren(...parts);
  $("fit").hidden = !said;
}

function say(what, more = "") {
  const soft = Object.assign(document.createElement("span"), { textContent: more && ` ${more}` });
  $("told").replaceChildren(what, soft);
}

// What a screen reader says next. Progress is said now and then; what is `due` is said at once.
export function announce(text, urgent = false) {
  const now = Date.now();
  if (text === announced.text || (!urgent && now - announced.at < ANNOUNCE)) return;
  announced = { at: now, text };
  $("live").textContent = text;
}

// The end: "done", "stopped" or "failed".
export function end(outcome) {
  clearInterval(clock);
  tiles.forEach((tile) => tile.stop());
  $("stage").dataset.state = outcome;
  if ($("cancel").contains(document.activeElement)) $("go").focus();
  $("cancel").hidden = true;
  document.title = "dalle-server";
  const painted = tiles.filter((tile) => tile.record).length;
  const seconds = (Date.now() - began) / 1000;
  const what = many(painted, "picture") + (revised ? ` of “${revised}”` : "");
  if (outcome === "done") say(what, `in ${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`);
  else say(outcome === "stopped" ? "Stopped" : "Not finished", painted ? `after ${many(painted, "picture")}` : "");
  announce($("told").textContent, true);
  if (!tiles.some((tile) => tile.drawn || tile.record)) empty(tiles.length);
}

export function fail(error) {
  const { title, text } = refusal(error);
  $("problem-title").textContent = title;
  $("problem-text").textContent = text;
  $("key-form").hidden = error.status !== 401;
  $("retry").hidden = [400, 401, 413, 422].includes(error.status);
  $("problem").hidden = false;
  if (error.status === 401) $("key").focus();
}

export function solve() {
  $("problem").hidden = true;
}

// Takes a deleted picture off the stage, or back onto it.
export function redraw() {
  const left = tiles.filter((tile) => !tile.record || shown.has(tile.record));
  $("tiles").replaceChildren(...left.map((tile) => tile.element));
  if (!left.length && state() !== "painting") empty($("n").valueAsNumber);
}
