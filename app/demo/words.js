// Numbers and refusals in words.

export const many = (n, one, more = `${one}s`) => `${n} ${n === 1 ? one : more}`;

export function time(seconds) {
  if (seconds < 59.5) return `${Math.max(1, Math.round(seconds))}\u00a0s`; // no line break before the unit
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes}\u00a0min` : `${Math.floor(minutes / 60)} h ${minutes % 60}\u00a0min`;
}

// The name of a picture: "7" for the first of seed 7, "7:2" for the one with index 2.
export const name = ({ seed, index }) => (index ? `${seed}:${index}` : String(seed));

// {prompt: "a red apple!", ...} -> "a-red-apple-7-2.png"
export function fileName(record) {
  const slug = record.prompt.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);
  return `${slug || "picture"}-${name(record).replace(":", "-")}.png`;
}

const TITLES = {
  400: "That cannot be painted",
  403: "This key may not do that",
  413: "That is too large",
  422: "That cannot be painted",
  429: "Too many at once",
  503: "The server is busy",
  504: "It took too long",
};
const CODES = {
  missing_api_key: ["This server asks for a key", "Enter the API key that its operator gave you. It is kept until this tab is closed."],
  invalid_api_key: ["This key does not fit", "The server does not know it. Is it complete?"],
  unreachable: ["No connection", "The server cannot be reached. Is it running, and are you online?"],
  cut: ["The connection broke", "What was finished is kept. The rest can be painted again, with the same seed."],
  draining: ["The server is shutting down", "It takes no more orders; what was accepted is finished."],
};

// {title, text} of a Refused, or of any other error.
export function refusal(error) {
  if (error.name !== "Refused") return { title: "Something went wrong on this page", text: String(error.message || error) };
  if (CODES[error.code]) return { title: CODES[error.code][0], text: CODES[error.code][1] };
  const text = sentence(error.message);
  const wait = error.wait ? ` There should be room in ${time(error.wait)}.` : "";
  return { title: TITLES[error.status] || "The server could not paint that", text: text + wait };
}

export function sentence(text) {
  const said = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(said) ? said : `${said}.`;
}
