import { type Client, type Consumer, Problem, type Session, type TicketKeys } from "./api.ts";

/** A message of a stream of Server-Sent Events. */
export interface Message {
  id: string;
  event: string;
  data: string;
}

/**
 * Parses a stream of Server-Sent Events, as the HTML standard says (section 9.2.6). EventSource
 * would, too, but cannot send a token.
 */
export class Parser {
  #rest = "";
  #id = "";
  #event = "";
  #data: string[] = [];

  /** The last ID, also of a block that is no event. */
  get lastID(): string {
    return this.#id;
  }

  /** Takes a piece of the stream and returns the messages that it completes. */
  feed(text: string): Message[] {
    const messages: Message[] = [];
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length > 0) {
          messages.push({ id: this.#id, event: this.#event || "message", data: this.#data.join("\n") });
        }
        this.#event = "";
        this.#data = [];
        continue;
      }
      const colon = line.indexOf(":");
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (field === "id" && !value.includes("\0")) {
        this.#id = value;
      } else if (field === "event") {
        this.#event = value;
      } else if (field === "data") {
        this.#data.push(value);
      }
    }
    return messages;
  }
}

/** How long a stream may be silent, in milliseconds: the service sends something every 15 s. */
const silence = 40_000;

export type StreamState = "connecting" | "open" | "lost" | "unavailable";

export const controlTypes = ["ticket_keys.updated", "ticket_keys.rejected", "consumer.changed", "fleet.changed"];
export const sessionTypes = ["session.stored", "session.replaced", "session.removed", "session.expired", "session.evicted"];

/**
 * Follows the events of the types until the signal aborts. It reconnects and asks for the events
 * since the last one. An error that will not pass ends it: it is thrown.
 */
export async function follow(
  client: Client,
  types: string[],
  signal: AbortSignal,
  onMessages: (messages: Message[]) => void,
  onState: (state: StreamState) => void,
): Promise<void> {
  let lastID = "";
  for (let failures = 0; !signal.aborted; failures++) {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    signal.addEventListener("abort", stop);
    let timer = setTimeout(stop, silence);
    try {
      const response = await client.send(
        "GET",
        `events?types=${types.join(",")}`,
        { Accept: "text/event-stream", ...(lastID && { "Last-Event-ID": lastID }) },
        attempt.signal,
      );
      onState("open");
      const parser = new Parser();
      const reader = response.body!.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) {
          break;
        }
        failures = 0;
        clearTimeout(timer);
        timer = setTimeout(stop, silence);
        const messages = parser.feed(value);
        lastID = parser.lastID || lastID;
        if (messages.length > 0) {
          onMessages(messages);
        }
      }
    } catch (error) {
      if (error instanceof Problem && error.status < 500 && error.status !== 429) {
        throw error;
      }
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
      stop(); // else a stream that failed here stays open at the service
    }
    if (signal.aborted) {
      return;
    }
    onState("lost");
    const wait = Math.min(1000 * 2 ** Math.min(failures, 4), 15_000) * (0.5 + Math.random() / 2);
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, wait);
      signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
    });
  }
}

type SessionEvent = Partial<Session> & { id_hash: string; idle_seconds?: number };

/** One line of plain text that says what happened. */
export function describe({ event, data }: Message): { time: string; text: string } {
  const d = JSON.parse(data) as { time: string };
  return { time: d.time, text: text(event, d) };
}

function text(event: string, d: object): string {
  switch (event) {
    case "ticket_keys.updated": {
      const set = (d as { ticket_keys: TicketKeys }).ticket_keys;
      const current = set.keys.find((key) => key.role === "current");
      return `Generation ${set.generation} from ${set.source}; ${current ? `key ${current.name.slice(0, 8)} encrypts` : "no key encrypts"}`;
    }
    case "ticket_keys.rejected": {
      const r = d as { source: string; reason: string; errors: { field: string; reason: string }[] };
      const first = r.errors[0];
      return `An update from ${r.source} was rejected (${r.reason})${first ? `: ${first.field} ${first.reason}` : ""}`;
    }
    case "consumer.changed": {
      const { consumer: c, forgotten } = d as { consumer: Consumer; forgotten: boolean };
      return forgotten ? `${c.name} was forgotten` : `${c.name} is ${c.state} at generation ${c.generation}${c.detail ? `: ${c.detail}` : ""}`;
    }
    case "fleet.changed": {
      const f = d as { connected: boolean; degraded?: string };
      return f.degraded ?? (f.connected ? "Redis answers" : "Redis does not answer");
    }
    case "dropped": {
      const { count } = d as { count?: number };
      return count === undefined ? "Earlier events are not known" : `${count} events are missing: this browser was too slow`;
    }
  }
  const s = d as SessionEvent;
  const parts = [s.id === undefined ? `ID hash ${s.id_hash.slice(0, 12)}` : `ID ${s.id}`];
  if (s.size !== undefined) {
    parts.push(`${s.size} B`);
  }
  if (s.format !== undefined) {
    parts.push(s.format);
  }
  if (s.idle_seconds !== undefined) {
    parts.push(`unused for ${s.idle_seconds} s`);
  }
  return parts.join(", ");
}
