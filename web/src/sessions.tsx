import { useState } from "preact/hooks";
import { type Client, Problem, type Session, type Status } from "./api.ts";
import { Action, Confirm } from "./dialog.tsx";
import type { Denied } from "./console.tsx";
import { bytes, count, moment, plural } from "./format.ts";

/** Finds and removes a session, and removes all. */
export function Sessions({
  client,
  status,
  denied,
  acted,
}: {
  client: Client;
  status: Status;
  denied: Denied;
  acted: (text: string) => void;
}) {
  const [found, setFound] = useState<Session>();
  const [error, setError] = useState("");
  const [asked, setAsked] = useState<"remove" | "flush">();
  const close = () => setAsked(undefined);

  if (!status.cache.enabled) {
    return null;
  }
  const look = async (event: SubmitEvent) => {
    event.preventDefault();
    const id = String(new FormData(event.currentTarget as HTMLFormElement).get("id")).trim();
    setFound(undefined);
    setError("");
    if (!/^([0-9a-f]{2}){1,32}$/i.test(id)) {
      setError("A session ID is 2 to 64 hex digits of even length.");
      return;
    }
    try {
      setFound(await client.session(id));
    } catch (e) {
      setError(e instanceof Problem ? e.message : "The service does not answer.");
    }
  };
  const why = denied("observe");
  return (
    <section class="panel sessions" aria-labelledby="lookup-heading">
      <div class="head">
        <h2 id="lookup-heading">Find a session</h2>
      </div>
      {why !== undefined ? (
        <p class="muted why">{why}</p>
      ) : (
        <>
          <form class="row lookup" onSubmit={look}>
            <label for="session-id">Session ID</label>
            <input id="session-id" name="id" autocomplete="off" autocapitalize="off" spellcheck={false} required placeholder="hex digits" />
            <button type="submit">Find</button>
          </form>
          <div role="status">
            {error !== "" && <p class="empty">{error}</p>}
            {found && <Description session={found} />}
          </div>
          {found && (
            <div class="row">
              <Action label="Remove this session" why={denied("session-write")} danger onClick={() => setAsked("remove")} />
            </div>
          )}
          <div class="row foot">
            <Action label="Remove all sessions" why={denied("admin")} danger onClick={() => setAsked("flush")} />
          </div>
        </>
      )}
      {asked === "remove" && found && (
        <Confirm
          title="Remove this session?"
          verb="Remove"
          close={close}
          act={async () => {
            await client.removeSession(found.id);
            setFound(undefined);
            acted(`Removed session ${found.id}.`);
          }}
        >
          <p>
            Session <code>{found.id}</code> is removed{status.fleet && " from the whole fleet"}. Its client makes a full handshake the next time.
          </p>
        </Confirm>
      )}
      {asked === "flush" && (
        <Confirm
          title="Remove all sessions?"
          verb="Remove all"
          word="flush"
          close={close}
          act={async () => {
            const removed = await client.flush();
            setFound(undefined);
            acted(`Removed ${plural(removed, "session")}.`);
          }}
        >
          <p>
            This cannot be undone.{" "}
            {status.fleet
              ? `All sessions of the fleet ${status.fleet.namespace} are removed.`
              : `All sessions are removed, ${count(status.cache.entries ?? 0)} now.`}{" "}
            Clients that resume by session ID make a full handshake the next time. Ticket keys stay: clients with tickets still resume.
          </p>
        </Confirm>
      )}
    </section>
  );
}

const time = (text: string) => moment(Date.parse(text));

function Description({ session }: { session: Session }) {
  const rows: [string, string][] = [
    ["ID", session.id],
    ["Size", bytes(session.size)],
    ["Format", session.format],
    ["Stored", time(session.stored_at)],
    ["Expires", time(session.expires_at)],
  ];
  const { protocol = "", cipher = "", ...rest } = session.openssl ?? session.boringssl ?? {};
  for (const [name, value] of Object.entries({ ...(protocol && { protocol, cipher }), ...rest })) {
    const label = name.replaceAll("_", " ");
    rows.push([label.charAt(0).toUpperCase() + label.slice(1), name.endsWith("_at") ? time(String(value)) : String(value)]);
  }
  return (
    <dl class="description">
      {rows.map(([label, value]) => (
        <div key={label}>
          <dt>{label}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
