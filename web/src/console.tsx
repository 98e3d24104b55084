import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { refusal } from "./app.tsx";
import { type Client, type Consumer, Problem, type Role, type Status } from "./api.ts";
import { Consumers } from "./consumers.tsx";
import { Events } from "./events.tsx";
import { Nodes } from "./fleet.tsx";
import { clock, duration } from "./format.ts";
import { add, type Sample, sample, total } from "./history.ts";
import { Keyring } from "./keyring.tsx";
import { Figures, Plots } from "./resumption.tsx";
import { Sessions } from "./sessions.tsx";
import { type Facts, findings } from "./verdict.ts";
import { Verdict } from "./verdict-line.tsx";

/** How often the status is read, and how often the consumers are besides, in milliseconds. */
const statusEvery = 2000;
const consumersEvery = 10_000;

/** Why an operation is not offered; undefined if it is. */
export type Denied = (role: Role) => string | undefined;

interface Data {
  status: Status;
  consumers: Consumer[] | undefined;
  history: Sample[];
  /** When the last answer came, by the clock of the reader, in milliseconds. */
  at: number;
  lost: Facts["lost"];
}

/** Reads the state again and again, until the identity is refused. */
function useData(client: Client, first: Status, leave: (reason: string) => void) {
  const [data, setData] = useState<Data>(() => {
    const at = Date.now();
    return { status: first, consumers: undefined, history: [sample(first, at)], at, lost: undefined };
  });
  const refreshed = useRef(() => {});

  useEffect(() => {
    let stopped = false;
    let timer: ReturnType<typeof setTimeout>;
    let wakened = false;
    let reading = false;
    let consumersAt = 0;

    const read = async () => {
      reading = true;
      wakened = false;
      try {
        const wantsConsumers = Date.now() - consumersAt >= consumersEvery;
        const [status, consumers] = await Promise.all([client.status(), wantsConsumers ? client.consumers() : undefined]);
        const at = Date.now();
        if (consumers) {
          consumersAt = at;
        }
        if (!stopped) {
          setData((old) => ({
            status,
            consumers: consumers ?? old.consumers,
            history: add(old.history, sample(status, at)),
            at,
            lost: undefined,
          }));
        }
      } catch (error) {
        const reason = refusal(error, client.hasToken);
        if (!stopped && reason !== undefined) {
          leave(reason || "The service no longer accepts the certificate of this browser.");
          return;
        }
        consumersAt = 0;
        if (!stopped) {
          const problem = error instanceof Problem ? error.message : undefined;
          setData((old) => ({ ...old, lost: { since: old.at, problem } }));
        }
      }
      reading = false;
      if (!stopped) {
        timer = setTimeout(read, wakened ? 0 : statusEvery);
      }
    };
    refreshed.current = () => {
      consumersAt = 0;
      wakened = true;
      if (!reading) {
        clearTimeout(timer);
        timer = setTimeout(read, 0);
      }
    };
    void read();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }, [client]);

  return { data, refresh: useCallback(() => refreshed.current(), []) };
}

/** Renders its component every second. */
function useTick() {
  const [, set] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => set((n) => n + 1), 1000);
    return () => clearInterval(timer);
  }, []);
}

export function Console({
  client,
  first,
  acts,
  leave,
}: {
  client: Client;
  first: Status;
  acts: boolean;
  leave: (reason: string) => void;
}) {
  useTick();
  const { data, refresh } = useData(client, first, leave);
  const [done, setDone] = useState("");
  const { status, history, at, lost } = data;
  // The clock of the service. It stands still while the service does not answer, as does all that
  // is known of it.
  const now = Date.parse(status.started_at) + 1000 * status.uptime_seconds + (lost ? 0 : Date.now() - at);
  const found = findings({ ...data, total: total(history), now });

  const denied: Denied = (role) => {
    if (!acts) {
      return "This is the operations listener, which changes nothing. Open the console at the main listener.";
    }
    const { identity } = status;
    if (!identity || identity.roles.includes(role) || identity.roles.includes("admin")) {
      return undefined;
    }
    return `Needs the role ${role}. ${identity.name} has ${identity.roles.join(", ")}.`;
  };
  const acted = (text: string) => {
    setDone(text);
    refresh();
  };

  useEffect(() => {
    const worst = found[0];
    document.title = `${worst ? (worst.severity === "critical" ? "✖ " : "▲ ") + worst.title : "✔ healthy"} · sessapi ${location.host}`;
  });

  return (
    <>
      <header>
        <h1>
          sessapi <span class="muted">{location.host}</span>
        </h1>
        <p class="facts">
          <span class={lost ? "dot critical" : "dot ok"} aria-hidden="true" />
          <span>{lost ? `last answer at ${clock(at)}` : `live, ${clock(at)}`}</span>
          <span>up {duration(now - Date.parse(status.started_at))}</span>
          <span>version {status.version}</span>
          <span>{status.identity ? `${status.identity.name}: ${status.identity.roles.join(", ")}` : "no policy: anyone may do everything"}</span>
        </p>
        {client.hasToken && (
          <button type="button" onClick={() => leave("")}>
            Log out
          </button>
        )}
      </header>
      <main>
        <Verdict found={found} status={status} consumers={data.consumers} history={history} now={now} />
        <div role="status">
          {done !== "" && (
            <p class="notice">
              {done}{" "}
              <button type="button" class="quiet" onClick={() => setDone("")}>
                Dismiss
              </button>
            </p>
          )}
        </div>
        <Figures status={status} history={history} />
        <Plots history={history} />
        <Keyring client={client} status={status} now={now} denied={denied} acted={acted} />
        <Consumers consumers={data.consumers} now={now} />
        <Nodes status={status} now={now} />
        <Events client={client} refresh={refresh} />
        <Sessions client={client} status={status} denied={denied} acted={acted} />
      </main>
    </>
  );
}
