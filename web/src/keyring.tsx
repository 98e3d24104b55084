import { useState } from "preact/hooks";
import type { Client, Status, TicketKey, TicketKeys } from "./api.ts";
import { Action, Confirm } from "./dialog.tsx";
import type { Denied } from "./console.tsx";
import { duration, moment, names, plural } from "./format.ts";

/** A part of the life of a key, in milliseconds. */
interface Span {
  kind: "held" | "encrypts" | "planned" | "decrypts";
  from: number;
  to: number;
}

/** Newest first: next, current, then previous keys by when they were replaced. */
export function ordered(keys: TicketKey[]): TicketKey[] {
  const rank = { next: 0, current: 1, previous: 2 };
  const began = (k: TicketKey) => Date.parse(k.activated_at ?? k.created_at);
  return [...keys].sort((a, b) => rank[a.role] - rank[b.role] || began(b) - began(a));
}

/** The life of each key, newest first. A key encrypts until the next newer one does. */
export function lives(set: TicketKeys, now: number): Span[][] {
  const next = set.next_rotation_at === undefined ? undefined : Math.max(now, Date.parse(set.next_rotation_at));
  let replaced: number | undefined; // when a newer key began to encrypt
  return ordered(set.keys).map((key) => {
    const created = Date.parse(key.created_at);
    const spans: Span[] = [];
    if (key.activated_at === undefined) {
      spans.push({ kind: key.role === "next" ? "held" : "decrypts", from: created, to: now });
      return spans;
    }
    const active = Date.parse(key.activated_at);
    spans.push({ kind: "held", from: created, to: active });
    const end = replaced ?? now;
    spans.push({ kind: "encrypts", from: active, to: end });
    if (key.role === "current" && next !== undefined) {
      spans.push({ kind: "planned", from: now, to: next });
    }
    if (key.role === "previous") {
      spans.push({ kind: "decrypts", from: end, to: now });
    }
    replaced = active;
    return spans.filter((s) => s.to > s.from);
  });
}

const meaning = {
  next: "decrypts; the next rotation makes it current",
  current: "encrypts and decrypts",
  previous: "decrypts only",
};

type Asked = { what: "rotate" } | { what: "revoke"; key: TicketKey };

export function Keyring({
  client,
  status,
  now,
  denied,
  acted,
}: {
  client: Client;
  status: Status;
  now: number;
  denied: Denied;
  acted: (text: string) => void;
}) {
  // The dialog is about the set that its reader saw, whatever happens meanwhile.
  const [asked, setAsked] = useState<Asked & { set: TicketKeys }>();
  const set = status.ticket_keys;
  const keys = ordered(set.keys);
  const spans = lives(set, now);
  const all = spans.flat();
  const from = Math.min(now - 60_000, ...all.map((s) => s.from));
  const to = Math.max(now + (now - from) / 12, ...all.map((s) => s.to));
  const place = (t: number) => `${(100 * (t - from)) / (to - from)}%`;
  const why = denied("key-publish");
  const close = () => setAsked(undefined);

  return (
    <section class="panel keyring" aria-labelledby="keys-heading">
      <div class="head">
        <h2 id="keys-heading">Ticket keys</h2>
        <p class="facts">
          <span>generation {set.generation}</span>
          <span>from {set.source}</span>
          <span>updated {duration(now - Date.parse(set.updated_at))} ago</span>
          <span>
            {set.next_rotation_at === undefined
              ? "no automatic rotation"
              : Date.parse(set.next_rotation_at) < now
                ? `next rotation due ${duration(now - Date.parse(set.next_rotation_at))} ago`
                : `next rotation in ${duration(Date.parse(set.next_rotation_at) - now)}`}
          </span>
        </p>
        <Action label="Rotate" why={why} onClick={() => setAsked({ what: "rotate", set })} />
      </div>
      <div class="timeline">
        <table>
          <thead>
            <tr>
              <th scope="col">Role</th>
              <th scope="col">Key</th>
              <th scope="col">Bits</th>
              <th scope="col">Age</th>
              <th scope="col">Encrypts since</th>
              <th scope="col" class="life">
                <div class="axis" aria-hidden="true">
                  {now - from > (to - from) / 4 && <span class="from">{duration(now - from)} ago</span>}
                  <span class="now" style={{ left: place(now) }}>
                    now
                  </span>
                </div>
                <span class="hidden">Life</span>
              </th>
              {why === undefined && (
                <th scope="col">
                  <span class="hidden">Action</span>
                </th>
              )}
            </tr>
          </thead>
          <tbody>
            {keys.map((key, i) => (
              <tr key={key.name} class={key.role}>
                <td>
                  <span class={`role ${key.role}`} title={meaning[key.role]}>
                    {key.role}
                  </span>
                </td>
                <th scope="row">
                  <code title={`fingerprint ${key.fingerprint}`}>{key.name}</code>
                </th>
                <td class="bits">{key.bits}</td>
                <td class="age">{duration(now - Date.parse(key.created_at))}</td>
                <td class="since">{key.activated_at === undefined ? "never" : moment(Date.parse(key.activated_at))}</td>
                <td class="life">
                  <div class="bar" aria-hidden="true">
                    {spans[i]!.map((s) => (
                      <span key={s.kind} class={s.kind} style={{ left: place(s.from), width: `${(100 * (s.to - s.from)) / (to - from)}%` }} />
                    ))}
                    <span class="nowline" style={{ left: place(now) }} />
                  </div>
                  <span class="hidden">{meaning[key.role]}</span>
                </td>
                {why === undefined && (
                  <td class="act">
                    <button
                      type="button"
                      class="danger small"
                      aria-label={`Revoke key ${key.name}`}
                      onClick={() => setAsked({ what: "revoke", key, set })}
                    >
                      Revoke
                    </button>
                  </td>
                )}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <ul class="legend" aria-hidden="true">
        <li>
          <span class="swatch held" /> handed out
        </li>
        <li>
          <span class="swatch encrypts" /> encrypts
        </li>
        <li>
          <span class="swatch planned" /> until the next rotation
        </li>
        <li>
          <span class="swatch decrypts" /> decrypts only
        </li>
      </ul>
      {asked?.what === "rotate" && (
        <Confirm
          title="Rotate the ticket keys?"
          verb="Rotate"
          danger={false}
          close={close}
          act={async () => {
            const made = await client.rotate(asked.set.generation);
            acted(`Rotated. Generation ${made.generation} is active.`);
          }}
        >
          <Rotation set={asked.set} status={status} />
        </Confirm>
      )}
      {asked?.what === "revoke" && (
        <Confirm
          title={`Revoke key ${asked.key.name.slice(0, 8)}…?`}
          verb="Revoke"
          word={asked.key.name}
          close={close}
          act={async () => {
            const made = await client.revoke(asked.key.name, asked.set.generation);
            acted(`Revoked key ${asked.key.name}. Generation ${made.generation} is active.`);
          }}
        >
          <Revocation set={asked.set} revoked={asked.key} />
        </Confirm>
      )}
    </section>
  );
}

const byRole = (set: TicketKeys, role: TicketKey["role"]) => set.keys.find((key) => key.role === role);
const brief = (key: TicketKey | undefined) => <code>{key ? `${key.name.slice(0, 8)}…` : "none"}</code>;

function Rotation({ set, status }: { set: TicketKeys; status: Status }) {
  const next = byRole(set, "next");
  if (!next) {
    return (
      <p>
        The set has no next key. This adds one, which servers receive but do not encrypt with yet. The current key stays. Rotate again when
        all servers have the next key.
      </p>
    );
  }
  const behind = status.consumers.activation?.behind ?? [];
  return (
    <>
      <ul>
        <li>{brief(next)} becomes the current key: it encrypts new tickets.</li>
        <li>{brief(byRole(set, "current"))} becomes a previous key: it still decrypts.</li>
        <li>A new key becomes the next key.</li>
        <li>The oldest key is dropped if the set has more than the ticket lifetime needs.</li>
      </ul>
      <p>Open connections continue. Tickets still resume, unless their key is dropped.</p>
      {status.consumers.activation && (
        <p>
          The service refuses to rotate while a consumer lacks the next key
          {behind.length > 0 && `. ${plural(behind.length, "consumer lacks", "consumers lack")} it now: ${names(behind)}`}.
        </p>
      )}
    </>
  );
}

function Revocation({ set, revoked }: { set: TicketKeys; revoked: TicketKey }) {
  const next = byRole(set, "next");
  return (
    <>
      <p>This cannot be undone. Revoke a key only if it may have leaked.</p>
      <ul>
        <li>The key leaves the set at once. Servers drop it when they load the new set.</li>
        <li>Clients whose tickets it encrypted make a full handshake.</li>
        {revoked.role === "current" &&
          (next ? (
            <li>{brief(next)}, the next key, becomes the current key.</li>
          ) : (
            <li>A new key becomes the current key. Until a server has it, the server cannot decrypt its tickets.</li>
          ))}
      </ul>
    </>
  );
}
