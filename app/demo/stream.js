// Speaks with the server: one order in, a stream of events out. Knows nothing of the page.
//
//   for await (const event of paint(order, key, signal)) ...
//     {kind: "progress", queue, rows: [..], total, left, revised?}
//                                                          pictures ahead, rows done of each picture, seconds or null
//     {kind: "partial", position, rows, total, url}        an unfinished picture, as a data URL
//     {kind: "finished", position, total, png, revised?, style?}
//                                                          a finished one, as a Blob
//
// fit?, closest?: how well that text says the prompt, and for an unknown one what the model knows that is nearest.
// missing?: the style that was asked for, if it does not know the thing.
// revised: the text that is painted, where the model says the prompt in words of its own. Of a finished picture it is
// said in the picture's style, where the model has several.
// order: {prompt, n, seed, index, temperature?, top_k?, top_p?, guidance?, style?, base?: Blob, keep?: rows to keep,
// rows?: of base}.
// position: 0 for the picture at order.index. Throws Refused, and AbortError when the signal aborts.

const EVERY_ROWS = 2; // rows between two unfinished pictures, as far as the server finds time for them

export class Refused extends Error {
  // status: of HTTP; 0 when nothing answered, 200 when it went wrong in the middle.
  // param: the field at fault, if one is. wait: seconds after which to come again, if the server said so.
  constructor(message, { status = 0, code = "", param = null, wait = null } = {}) {
    super(message);
    this.name = "Refused";
    Object.assign(this, { status, code, param, wait });
  }
}

export async function* paint(order, key, signal) {
  const answer = await send(order, key, signal);
  if (!answer.ok) throw await refusal(answer);
  for await (const block of blocks(answer.body, signal)) {
    if (block === "data: [DONE]") return;
    const event = read(block, order.index);
    if (event) yield event;
  }
  throw new Refused("The connection broke before all pictures were painted.", { status: 200, code: "cut" });
}

// The models, the default one first, each with the names of its styles and its sampling: {temperature, top_k, top_p,
// guidance}. None where the server does not say.
export async function models(key) {
  try {
    const answer = await fetch("v1/models", { headers: key ? { Authorization: `Bearer ${key}` } : {} });
    const { data } = await answer.json();
    return data
      .filter(({ root }) => !root)
      .map(({ id, styles, sampling }) => ({ id, styles: (styles || []).map(({ name }) => name), sampling: sampling || {} }));
  } catch {
    return [];
  }
}

function send(order, key, signal) {
  const { prompt, n, seed, index, temperature, top_k, top_p, guidance, model, style, base, keep } = order;
  const fields = {
    prompt, n, seed, index, temperature, top_k, top_p, guidance, model, style,
    keep_rows: base && keep,
    stream: true,
    every_rows: EVERY_ROWS,
    embed_prompt: true,
  };
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let body;
  if (base) {
    body = new FormData();
    for (const [name, value] of Object.entries(fields)) if (value !== undefined) body.append(name, String(value));
    body.append("image", base, "picture.png");
  } else {
    body = JSON.stringify(fields);
    headers["Content-Type"] = "application/json";
  }
  return fetch(base ? "v1/images/edits" : "v1/images/generations", { method: "POST", headers, body, signal })
    .catch((error) => { throw named(error, "The server cannot be reached."); });
}

async function refusal(answer) {
  const error = await answer.json().then((body) => body.error || {}, () => ({}));
  const wait = Number(answer.headers.get("Retry-After")) || null;
  const message = error.message || `The server answered with status ${answer.status}.`;
  return new Refused(message, { status: answer.status, code: error.code, param: error.param, wait });
}

function named(error, otherwise) {
  return error.name === "AbortError" ? error : new Refused(otherwise, { status: 0, code: "unreachable" });
}

// The blocks of a text/event-stream, which a blank line ends.
async function* blocks(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let parts = []; // of the block under way: joined once, because a picture comes in many pieces
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        throw named(signal.aborted ? signal.reason : error, "The connection broke before all pictures were painted.");
      });
      if (done) return;
      parts.push(value);
      if (!value.includes("\n")) continue;
      const whole = parts.join("").replaceAll("\r\n", "\n").split("\n\n");
      parts = [whole.pop()];
      yield* whole.filter(Boolean);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function read(block, first) {
  if (block.startsWith(": progress ")) {
    const { queue_position, rows_done, rows, seconds_left, ...said } = JSON.parse(block.slice(11));
    return { kind: "progress", queue: queue_position, rows: rows_done, total: rows, left: seconds_left, ...told(said) };
  }
  if (!block.startsWith("data: ")) return null; // a comment that keeps the connection alive
  const event = JSON.parse(block.slice(6));
  if (event.error) throw new Refused(event.error.message, { status: 200, ...event.error });
  const about = { position: event.index - first, total: event.rows };
  if (event.type.endsWith(".completed")) {
    return { kind: "finished", ...about, png: blob(event.b64_json), style: event.style, ...told(event) };
  }
  return { kind: "partial", ...about, rows: event.rows_done, url: `data:image/png;base64,${event.b64_json}` };
}

// What the server tells of the text.
function told({ revised_prompt, prompt_fit, prompt_closest, missing_style }) {
  return { revised: revised_prompt, fit: prompt_fit, closest: prompt_closest, missing: missing_style };
}

function blob(base64) {
  return new Blob([Uint8Array.from(atob(base64), (character) => character.charCodeAt(0))], { type: "image/png" });
}
