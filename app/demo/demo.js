"use strict";

// One request at a time: POST /generate, then one <img> for every picture of the answer.

const $ = (id) => document.getElementById(id);
let running = null;

$("count").addEventListener("input", () => { $("shown").value = $("count").value; });
$("stop").addEventListener("click", () => running && running.abort());

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (running) return;
  running = new AbortController();
  busy(true);
  const began = Date.now();
  const clock = setInterval(() => say(`Painting, ${Math.round((Date.now() - began) / 1000)} s`), 500);
  const text = $("text").value;
  try {
    const answer = await fetch("/generate", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ text, num_images: Number($("count").value) }),
      signal: running.signal,
    });
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.Error || `status ${answer.status}`);
    const seeds = (answer.headers.get("X-Seeds") || "").split(",");
    show(text, body, seeds);
    say(`Done in ${((Date.now() - began) / 1000).toFixed(1)} s`);
  } catch (error) {
    say(error.name === "AbortError" ? "Stopped" : error.message, error.name !== "AbortError");
  } finally {
    clearInterval(clock);
    running = null;
    busy(false);
  }
});

function busy(is) {
  $("go").disabled = is;
  $("stop").hidden = !is;
  $("pictures").setAttribute("aria-busy", String(is));
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

function show(text, pictures, seeds) {
  const items = pictures.map((picture, i) => {
    const item = document.createElement("li");
    const figure = document.createElement("figure");
    const image = new Image(256, 256);
    image.src = `data:image/png;base64,${picture}`;
    image.alt = text;
    const caption = document.createElement("figcaption");
    caption.textContent = `seed ${seeds[i] || "?"}`;
    figure.append(image, caption);
    item.append(figure);
    return item;
  });
  $("pictures").replaceChildren(...items);
}
