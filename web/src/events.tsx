import { useEffect, useState } from "preact/hooks";
import { type Client, Problem } from "./api.ts";
import { controlTypes, describe, follow, type Message, sessionTypes, type StreamState } from "./stream.ts";
import { clock } from "./format.ts";

/** How many events are kept, and how often the list is drawn at most, in milliseconds. */
const most = 100;
const drawEvery = 250;

interface Entry {
  key: number;
  type: string;
  time: string;
  text: string;
}

const stateText: Record<StreamState, string> = {
  connecting: "connecting",
  open: "live",
  lost: "not connected; trying again",
  unavailable: "not available",
};

/** The events as they come. Those about keys, consumers and the fleet call refresh. */
export function Events({ client, refresh }: { client: Client; refresh: () => void }) {
  const [state, setState] = useState<StreamState>("connecting");
  const [why, setWhy] = useState("");
  const [entries, setEntries] = useState<Entry[]>([]);
  const [sessions, setSessions] = useState(false);
  const [paused, setPaused] = useState(false);

  useEffect(() => {
    if (paused) {
      return;
    }
    const end = new AbortController();
    let next = Date.now() * 1000; // keys of entries
    let pending: Entry[] = [];
    let timer: ReturnType<typeof setTimeout> | undefined;
    const draw = () => {
      timer = undefined;
      const fresh = pending.reverse();
      pending = [];
      setEntries((old) => [...fresh, ...old].slice(0, most));
    };
    const onMessages = (messages: Message[]) => {
      for (const message of messages.slice(-most)) {
        pending.push({ key: next++, type: message.event, ...describe(message) });
      }
      pending = pending.slice(-most);
      timer ??= setTimeout(draw, drawEvery);
      if (messages.some((m) => !m.event.startsWith("session."))) {
        refresh();
      }
    };
    setState("connecting");
    follow(client, sessions ? [...controlTypes, ...sessionTypes] : controlTypes, end.signal, onMessages, setState).catch((error: unknown) => {
      setState("unavailable");
      setWhy(error instanceof Problem ? error.message : "");
    });
    return () => {
      end.abort();
      clearTimeout(timer);
    };
  }, [client, sessions, paused]);

  return (
    <section class="panel events" aria-labelledby="events-heading">
      <div class="head">
        <h2 id="events-heading">Events</h2>
        <p class="facts">
          <span class={paused ? "dot" : state === "open" ? "dot ok" : state === "connecting" ? "dot" : "dot critical"} aria-hidden="true" />
          <span class="stream">{paused ? "paused" : stateText[state]}</span>
        </p>
        <label class="check">
          <input type="checkbox" checked={sessions} onChange={(e) => setSessions(e.currentTarget.checked)} /> Sessions too
        </label>
        <button type="button" class="small" aria-pressed={paused} onClick={() => setPaused(!paused)}>
          Pause
        </button>
      </div>
      {entries.length === 0 ? (
        <p class="empty">{state === "unavailable" ? why : "Nothing has happened since this page was opened."}</p>
      ) : (
        <div class="scroll" tabindex={0} role="group" aria-labelledby="events-heading">
          <table>
            <thead>
              <tr>
                <th scope="col">Time</th>
                <th scope="col">Event</th>
                <th scope="col">Details</th>
              </tr>
            </thead>
            <tbody>
              {entries.map((e) => (
                <tr key={e.key} class={e.type === "ticket_keys.rejected" || e.type === "dropped" ? "notable" : ""}>
                  <td class="time">{clock(Date.parse(e.time))}</td>
                  <td class="type">{e.type}</td>
                  <td class="what">{e.text}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}
