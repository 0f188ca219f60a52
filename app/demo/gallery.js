// The pictures that this browser keeps, the newest first; those on the stage are left out until they leave it.

import { shown } from "./stage.js";
import * as store from "./store.js";
import { Tile, forget, url } from "./tiles.js";

const $ = (id) => document.getElementById(id);
const PAGE = 36; // tiles shown at first, and added by "Show more"

export const records = []; // newest order first; within one, as they were asked for
const tiles = new Map();
let limit = PAGE;
let keeps = true; // whether the browser lets us

async function attempt(action) {
  try {
    return await action();
  } catch {
    keeps = false;
    $("unkept").hidden = false;
    return undefined;
  }
}

export async function load() {
  records.push(...((await attempt(store.all)) || []));
  render();
}

// Adds a picture, new or brought back.
export async function keep(record) {
  records.push(record);
  const id = await attempt(() => store.put(record));
  if (id !== undefined) record.id = id;
}

export async function remove(record) {
  records.splice(records.indexOf(record), 1);
  shown.delete(record);
  if (record.id !== undefined) await attempt(() => store.remove(record.id));
}

export async function clear() {
  records.splice(0).forEach((record) => { drop(record); shown.delete(record); });
  await attempt(store.clear);
}

function drop(record) {
  tiles.delete(record);
  forget(record);
}

function tile(record) {
  if (!tiles.has(record)) tiles.set(record, Tile.of(record, record.prompt));
  return tiles.get(record);
}

export function render() {
  records.sort((a, b) => b.created - a.created || a.index - b.index);
  for (const record of tiles.keys()) if (!records.includes(record)) tiles.delete(record);
  const list = records.filter((record) => !shown.has(record));
  $("gallery").hidden = !list.length;
  $("more").hidden = list.length <= limit;
  $("kept-tiles").replaceChildren(...list.slice(0, limit).map((record) => tile(record).element));
}

// Moves the focus to the picture at a place in the gallery, or near it.
export function focus(place) {
  const frames = $("kept-tiles").querySelectorAll(".frame");
  (frames[Math.min(place, frames.length - 1)] || $("prompt")).focus();
}

export const placeOf = (record) => records.filter((one) => !shown.has(one)).indexOf(record);

export function start() {
  $("more").addEventListener("click", () => {
    const place = limit;
    limit += PAGE;
    render();
    focus(place);
  });
  return load();
}
