// The form. Reads an order from it, fills one in, says what is wrong with a field, and holds the picture to paint on.

import { name, sentence } from "./words.js";

const $ = (id) => document.getElementById(id);
const SIDE = 256; // pixels of a picture to paint on: what the server makes of it anyway
const NUMBERS = {
  temperature: ["Temperature", (value) => value >= 0 && value <= 5, "a number from 0 to 5"],
  top_k: ["Top-k", (value) => Number.isInteger(value) && value >= 0 && value <= 8192, "a whole number from 0 to 8192"],
  top_p: ["Top-p", (value) => value > 0 && value <= 1, "a number above 0, up to 1"],
  guidance: ["Guidance", (value) => value >= 0 && value <= 20, "a number from 0 to 20"],
};
const FIELDS = ["prompt", ...Object.keys(NUMBERS), "seed"];
const SEED = /^(\d{1,16})(?::(\d{1,9}))?$/;

let base = null; // {png: Blob, rows}
let offered = []; // models of the server
let first = ""; // style of the chosen model, "" for none
let known = 32; // rows of the server's pictures, as far as we know

// The order in the form. Null if a field is wrong: the form then says what is wrong, and the field has the focus.
export function order() {
  FIELDS.forEach((field) => complain(field, ""));
  const found = { prompt: $("prompt").value.trim(), n: $("n").valueAsNumber };
  let wrong = null;
  const refuse = (field, why) => { complain(field, why); wrong ??= field; };
  if (!found.prompt) refuse("prompt", "Say first what the picture should show.");
  for (const [field, [label, fits, allowed]] of Object.entries(NUMBERS)) {
    const input = $(field);
    if (input.value === "" && !input.validity.badInput) continue;
    if (fits(input.valueAsNumber)) found[field] = input.valueAsNumber;
    else refuse(field, `${label} must be ${allowed}.`);
  }
  const [, seed, index] = SEED.exec($("seed").value.trim()) || [];
  if ($("seed").value.trim() === "") Object.assign(found, { seed: crypto.getRandomValues(new Uint32Array(1))[0], index: 0 });
  else if (Number(seed) <= Number.MAX_SAFE_INTEGER) Object.assign(found, { seed: Number(seed), index: Number(index || 0) });
  else refuse("seed", `Seed must be a whole number up to ${Number.MAX_SAFE_INTEGER}, or one with an index, such as 7:2.`);
  if ($("model").value) found.model = $("model").value;
  if ($("style").value) found.style = $("style").value;
  found.first = first;
  if (base) Object.assign(found, { base: base.png, rows: base.rows, keep: $("keep").valueAsNumber });
  if (!wrong) return found;
  show(wrong);
  return null;
}

// What the page calls a field of the API.
export const label = (field) => NUMBERS[field]?.[0] || field;

// Marks a field as wrong, or as right again with why "". Returns whether the form has such a field.
export function complain(field, why) {
  if (!FIELDS.includes(field)) return false;
  $(`${field}-wrong`).textContent = why && sentence(why);
  if (why) $(field).setAttribute("aria-invalid", "true");
  else $(field).removeAttribute("aria-invalid");
  return true;
}

// Brings a field into sight and gives it the focus.
export function show(field) {
  if (field !== "prompt") fold(false);
  $(field).focus();
}

// Fills in what a record was painted from.
export function fill(record) {
  $("prompt").value = record.prompt;
  for (const field of Object.keys(NUMBERS)) $(field).value = record.settings[field] ?? "";
  if (record.base) attach(record.base, record.rows, record.keep);
  else detach();
  useModel(record);
  useStyle(record);
  useSeed(record);
}

// Lets people choose among the models, where there are several. found: as `models` gives them.
export function offer(found) {
  const chosen = $("model").value;
  offered = found;
  $("models").hidden = found.length < 2;
  $("model").replaceChildren(...(found.length < 2 ? [] : found.map(({ id }) => new Option(id, id))));
  useModel({ model: chosen });
}

// The model of a record; the default one where the server has none of this name.
export function useModel({ model }) {
  $("model").value = model || "";
  if ($("model").selectedIndex < 0) $("model").selectedIndex = 0;
  const { styles, sampling } = offered.find(({ id }) => id === $("model").value) || offered[0] || {};
  offerStyles(styles || []);
  tell(sampling || {});
}

// Lets people choose among the styles of the model, where it has several. names: as the server tells them.
function offerStyles(names) {
  $("styles").hidden = names.length < 2;
  [first = ""] = names;
  const chosen = $("style").value;
  if (names.length < 2) {
    $("style").replaceChildren();
    return;
  }
  $("style").replaceChildren(new Option("Any style", ""), ...names.map((style) => new Option(`Style: ${style}`, style)));
  useStyle({ style: chosen });
}

// Shows the values that the model has for the settings. sampling: as the server tells them.
function tell(sampling) {
  for (const [field, value] of Object.entries(sampling)) if (field in NUMBERS) $(field).placeholder = String(value);
}

// The style of a record, which is no other whatever its neighbours had; any where the model has none of this name.
export function useStyle({ style }) {
  $("style").value = style || "";
  if ($("style").selectedIndex < 0) $("style").value = "";
}

export function useSeed(record) {
  $("seed").value = name(record);
  summarise();
}

// Takes a picture to paint on. rows: of the model that painted it. keep: rows of it to keep.
export function attach(png, rows = known, keep = Math.round(rows / 2)) {
  detach();
  base = { png, rows };
  $("base-picture").src = URL.createObjectURL(png);
  $("keep").max = rows - 1;
  $("keep").value = keep;
  $("base").hidden = false;
  measure();
}

// rows: of a picture of this server.
export function learn(rows) {
  known = rows;
}

export function detach() {
  if (base) URL.revokeObjectURL($("base-picture").src);
  base = null;
  $("base").hidden = true;
  $("base-picture").removeAttribute("src");
}

export function fold(folded) {
  $("fold").setAttribute("aria-expanded", String(!folded));
  $("settings").hidden = folded;
}

function measure() {
  const keep = $("keep").valueAsNumber;
  const said = `${keep} of ${base.rows}`;
  $("kept").value = said;
  $("keep").setAttribute("aria-valuetext", `${said} rows`);
  const canvas = $("keep").parentElement;
  canvas.style.setProperty("--rows", base.rows);
  canvas.style.setProperty("--kept", `${(100 * keep) / base.rows}%`);
}

function summarise() {
  const chosen = [...Object.keys(NUMBERS), "seed"].filter((field) => $(field).value.trim());
  $("chosen").textContent = chosen.map((field) => `${label(field).toLowerCase()} ${$(field).value.trim()}`).join(", ");
}

function count() {
  const { value, min, max } = $("n");
  $("n-shown").value = value;
  $("n").style.setProperty("--at", `${(100 * (value - min)) / (max - min)}%`);
}

// The middle square of a picture file as a small PNG: what a camera wrote into the file stays here.
async function square(file) {
  const bitmap = await createImageBitmap(file);
  const side = Math.min(bitmap.width, bitmap.height);
  const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, SIDE, SIDE);
  context.drawImage(bitmap, (bitmap.width - side) / 2, (bitmap.height - side) / 2, side, side, 0, 0, SIDE, SIDE);
  bitmap.close();
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

export function start() {
  $("fold").addEventListener("click", () => fold($("fold").getAttribute("aria-expanded") === "true"));
  $("settings").addEventListener("input", summarise);
  $("composer").addEventListener("input", (event) => complain(event.target.id, ""));
  $("reset").addEventListener("click", () => {
    [...Object.keys(NUMBERS), "seed"].forEach((field) => { $(field).value = ""; complain(field, ""); });
    summarise();
    $("temperature").focus();
  });
  $("model").addEventListener("change", () => useModel({ model: $("model").value }));
  $("n").addEventListener("input", count);
  $("keep").addEventListener("input", measure);
  $("keep").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]; // the line goes where the arrow points
    if (!step) return;
    event.preventDefault();
    $("keep").value = $("keep").valueAsNumber + step;
    measure();
  });
  $("detach").addEventListener("click", () => { detach(); $("prompt").focus(); });
  $("attach").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", async () => {
    const [file] = $("file").files;
    $("file").value = "";
    if (!file) return;
    try {
      attach(await square(file));
      complain("prompt", "");
      $("keep").focus();
    } catch {
      complain("prompt", "This file is no picture that the browser can open. PNG, JPEG and WebP are.");
    }
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("composer").requestSubmit();
  });
  $("settings").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches("input")) { event.preventDefault(); $("composer").requestSubmit(); }
  });
  count();
  summarise();
}
