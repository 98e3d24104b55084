import { useState } from "preact/hooks";
import type { Consumer, ConsumerState } from "./api.ts";
import { count, duration } from "./format.ts";

/** Worst first. */
const states: ConsumerState[] = ["failed", "stale", "applying", "missing", "current"];
const most = 50;

/** A state, in words and in colour. */
export function State({ state }: { state: ConsumerState | "up" }) {
  const severity = { failed: "critical", stale: "critical", applying: "warning", missing: "warning", current: "ok", up: "ok" }[state];
  return <span class={`state ${severity}`}>{state}</span>;
}

export function Consumers({ consumers, now }: { consumers: Consumer[] | undefined; now: number }) {
  const [all, setAll] = useState(false);
  const sorted = [...(consumers ?? [])].sort(
    (a, b) => states.indexOf(a.state) - states.indexOf(b.state) || Number(b.behind) - Number(a.behind) || (a.name < b.name ? -1 : 1),
  );
  const shown = all ? sorted : sorted.slice(0, most);
  const summary = states
    .map((state) => ({ state, n: sorted.filter((c) => c.state === state).length }))
    .filter(({ n }) => n > 0)
    .map(({ state, n }) => `${count(n)} ${state}`)
    .join(", ");
  return (
    <section class="panel consumers" aria-labelledby="consumers-heading">
      <div class="head">
        <h2 id="consumers-heading">Consumers</h2>
        <p class="facts">{summary}</p>
      </div>
      {consumers === undefined ? (
        <p class="empty">Loading…</p>
      ) : sorted.length === 0 ? (
        <p class="empty">
          Nothing has reported which ticket keys it holds. <code>sessapi agent</code> reports for its targets.
        </p>
      ) : (
        <div class="scroll" tabindex={0} role="group" aria-labelledby="consumers-heading">
          <table>
            <thead>
              <tr>
                <th scope="col">State</th>
                <th scope="col">Name</th>
                <th scope="col" class="minor">
                  Kind
                </th>
                <th scope="col">Generation</th>
                <th scope="col" class="number">
                  For
                </th>
                <th scope="col" class="number minor">
                  Reported
                </th>
              </tr>
            </thead>
            <tbody>
              {shown.map((c) => (
                <tr key={c.name}>
                  <td>
                    <State state={c.state} />
                  </td>
                  <th scope="row">
                    {c.name}
                    {c.detail !== undefined && <span class="detail">{c.detail}</span>}
                  </th>
                  <td class="minor">{c.kind}</td>
                  <td>
                    {c.generation === 0 ? "none" : c.generation}
                    {c.behind && <span class="behind"> behind</span>}
                  </td>
                  <td class="number">{duration(now - Date.parse(c.since))}</td>
                  <td class="number minor">{duration(now - Date.parse(c.reported_at))} ago</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {sorted.length > most && (
        <button type="button" class="small" onClick={() => setAll(!all)}>
          {all ? `Show the first ${most}` : `Show all ${count(sorted.length)}`}
        </button>
      )}
    </section>
  );
}
