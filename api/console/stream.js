// Reads /v1/stream with fetch, since EventSource cannot send a key.

import { ask } from "./api.js";

//: ms without any data (the server sends some every 15 s) after which a connection counts as dead.
const DEAD = 40_000;
const RETRY = { first: 1_000, most: 15_000 };

/** Parser of text/event-stream, as in the HTML standard; `take` gets the name, the data and the last id. */
export class Parser {
  constructor(take) {
    this.take = take;
    this.id = "";
    this.rest = "";
    this.begin();
  }

  begin() {
    this.name = "";
    this.data = [];
  }

  feed(text) {
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop();
    for (const line of lines) this.line(line.endsWith("\r") ? line.slice(0, -1) : line);
  }

  line(line) {
    if (line === "") {
      if (this.data.length) this.take(this.name || "message", this.data.join("\n"), this.id);
      this.begin();
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.name = value;
    else if (field === "data") this.data.push(value);
    else if (field === "id") this.id = value;
  }
}

/**
 * Follow the stream for ever: `take(name, data)` gets events, `status(live)` the state of the connection, and `heard()` is called for
 * any data. After an interruption it continues where it stopped. Ends when `signal` is aborted.
 */
export async function follow(cursor, { take, status, heard, signal }) {
  let wait = RETRY.first;
  while (!signal.aborted) {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    signal.addEventListener("abort", stop);
    addEventListener("offline", stop); // reconnect even so: a machine without a network may still reach this host
    let watch = null;
    const alive = () => {
      clearTimeout(watch);
      watch = setTimeout(stop, DEAD);
    };
    try {
      alive();
      const answer = await ask("/v1/stream", { signal: attempt.signal, headers: cursor ? { "Last-Event-ID": cursor } : {} });
      const parser = new Parser((name, data) => take(name, JSON.parse(data)));
      parser.id = cursor ?? "";
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      status(true);
      wait = RETRY.first;
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        alive();
        parser.feed(value);
        cursor = parser.id;
        heard();
      }
    } catch (error) {
      if (signal.aborted) return;
      console.info(`stream: ${error.message}`);
    } finally {
      clearTimeout(watch);
      signal.removeEventListener("abort", stop);
      removeEventListener("offline", stop);
    }
    status(false);
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(2 * wait, RETRY.most);
  }
}
