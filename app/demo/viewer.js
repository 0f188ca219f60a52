// One picture, large, and what can be done with it. Arrow keys go to the next one.

import { records } from "./gallery.js";
import { announce } from "./stage.js";
import { icon, labelled, make, url } from "./tiles.js";
import { fileName, name } from "./words.js";

const $ = (id) => document.getElementById(id);
const LABELS = { temperature: "Temperature", top_k: "Top-k", top_p: "Top-p", guidance: "Guidance" };
let current = null;

export function open(record) {
  current = record;
  $("viewer-picture").src = url(record);
  $("viewer-picture").alt = record.prompt;
  $("viewer-prompt").textContent = record.prompt;
  const download = $("viewer-download");
  download.href = url(record);
  download.download = fileName(record);
  const copy = labelled(make("button", "icon small", { type: "button" }, icon("copy")), "Copy the seed");
  copy.addEventListener("click", () => copyText(name(record), copy));
  const facts = [
    ...(record.revised ? [["Painted as", record.revised]] : []),
    ...(record.model ? [["Model", record.model]] : []),
    ...(record.style ? [["Style", record.style]] : []),
    ["Seed", make("code", "", {}, name(record)), copy],
    ...Object.entries(record.settings).map(([field, value]) => [LABELS[field], String(value)]),
    ...(record.base ? [["Painted on", `the top ${record.keep} of ${record.rows} rows were there`]] : []),
    ["Painted", new Date(record.created).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" })],
  ];
  $("viewer-facts").replaceChildren(...facts.flatMap(([term, ...text]) => [make("dt", "", {}, term), make("dd", "", {}, ...text)]));
  const place = records.indexOf(record);
  $("viewer-left").disabled = place <= 0;
  $("viewer-right").disabled = place >= records.length - 1;
  if (!$("viewer").open) $("viewer").showModal();
}

function turn(step) {
  const next = records[records.indexOf(current) + step];
  if (next) open(next);
}

// Copies, also where the page is not served over HTTPS and the browser withholds its clipboard.
export async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = make("textarea", "unseen", { value: text });
    (button.closest("dialog") || document.body).append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    button.focus();
  }
  announce("Copied", true);
  button.replaceChildren(icon("check"));
  setTimeout(() => button.replaceChildren(icon("copy")), 1500);
}

// acts: {paintOn, again, remove}, each of a record.
export function start(acts) {
  const dialog = $("viewer");
  const then = (act) => () => { dialog.close(); act(current); };
  $("viewer-on").addEventListener("click", then(acts.paintOn));
  $("viewer-again").addEventListener("click", then(acts.again));
  $("viewer-delete").addEventListener("click", then(acts.remove));
  $("viewer-close").addEventListener("click", () => dialog.close());
  $("viewer-left").addEventListener("click", () => turn(-1));
  $("viewer-right").addEventListener("click", () => turn(1));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) turn(step);
  });
}
