import type { Consumer, Status } from "./api.ts";
import { duration, percent, plural } from "./format.ts";
import { type Sample, total } from "./history.ts";
import type { Finding } from "./verdict.ts";

/** What is wrong, worst first; or that nothing is, and why the reader may believe it. */
export function Verdict({
  found,
  status,
  consumers,
  history,
  now,
}: {
  found: Finding[];
  status: Status;
  consumers: Consumer[] | undefined;
  history: Sample[];
  now: number;
}) {
  const worst = found[0];
  return (
    <section class={`verdict ${worst?.severity ?? "ok"}`} aria-label="Verdict">
      <div role="status">
        <h2>
          <span class="mark" aria-hidden="true">
            {worst ? (worst.severity === "critical" ? "✖" : "▲") : "✔"}
          </span>
          {worst?.title ?? "Resumption is healthy"}
        </h2>
      </div>
      {worst ? (
        <>
          <p>{worst.detail}</p>
          {found.length > 1 && (
            <ul class="findings">
              {found.slice(1).map((f) => (
                <li key={f.code}>
                  <strong class={f.severity}>{f.severity === "critical" ? "Critical" : "Warning"}</strong> {f.title}. {f.detail}
                </li>
              ))}
            </ul>
          )}
        </>
      ) : (
        <p>{reasons(status, consumers, history, now)}</p>
      )}
    </section>
  );
}

function reasons(status: Status, consumers: Consumer[] | undefined, history: Sample[], now: number): string {
  const parts = [];
  const sum = total(history);
  if (status.cache.enabled && sum && sum.hits + sum.misses > 0) {
    parts.push(`${percent(sum.hits / (sum.hits + sum.misses))} of session lookups find their session`);
  }
  if (consumers && consumers.length > 0) {
    const current = consumers.filter((c) => c.state === "current").length;
    parts.push(
      current === consumers.length
        ? `${current === 1 ? "the consumer holds" : `all ${current} consumers hold`} the active ticket keys`
        : `${current} of ${consumers.length} consumers hold the active ticket keys, the others are loading them`,
    );
  }
  if (status.fleet) {
    const nodes = status.fleet.nodes.filter((n) => !n.missing).length;
    parts.push(`${plural(nodes, "node")} of the fleet ${nodes === 1 ? "reports" : "report"}`);
  }
  const next = status.ticket_keys.next_rotation_at;
  parts.push(next === undefined ? "the keys do not rotate automatically" : `the next rotation is in ${duration(Date.parse(next) - now)}`);
  const text = parts.join("; ");
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}
