import type { Status } from "./api.ts";
import { State } from "./consumers.tsx";
import { duration } from "./format.ts";

export function Nodes({ status: { fleet, ticket_keys }, now }: { status: Status; now: number }) {
  return (
    <section class="panel nodes" aria-labelledby="nodes-heading">
      <div class="head">
        <h2 id="nodes-heading">Fleet</h2>
        {fleet && (
          <p class="facts">
            <span>
              Redis {fleet.connected ? "has answered" : "has not answered"} for {duration(now - Date.parse(fleet.since))}
            </span>
            <span>namespace {fleet.namespace}</span>
          </p>
        )}
      </div>
      {!fleet ? (
        <p class="empty">This node is not in a fleet: it runs without --redis.</p>
      ) : fleet.nodes.length === 0 ? (
        <p class="empty">The nodes are not known yet.</p>
      ) : (
        <div class="scroll" tabindex={0} role="group" aria-labelledby="nodes-heading">
          <table>
            <thead>
              <tr>
                <th scope="col">State</th>
                <th scope="col">Node</th>
                <th scope="col">Generation</th>
                <th scope="col" class="number">
                  Seen
                </th>
              </tr>
            </thead>
            <tbody>
              {fleet.nodes.map((n) => (
                <tr key={`${n.host} ${n.listen}`}>
                  <td>
                    <State state={n.missing ? "missing" : "up"} />
                  </td>
                  <th scope="row">
                    {n.host}
                    <span class="detail">
                      {n.listen}, {n.version}
                    </span>
                  </th>
                  <td>
                    {n.generation}
                    {!n.missing && n.generation !== ticket_keys.generation && <span class="behind"> differs</span>}
                  </td>
                  <td class="number">{duration(now - Date.parse(n.seen_at))} ago</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}
