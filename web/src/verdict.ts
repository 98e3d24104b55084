import type { Consumer, ConsumerState, Status } from "./api.ts";
import { clock, count, duration, names, percent, plural } from "./format.ts";
import type { Counter } from "./history.ts";

export type Severity = "critical" | "warning";

/** Something that is wrong. */
export interface Finding {
  severity: Severity;
  /** A stable name. */
  code: string;
  title: string;
  detail: string;
}

/** What the verdict is made from. */
export interface Facts {
  status: Status;
  /** undefined before the first answer. */
  consumers: Consumer[] | undefined;
  /** What was counted lately; undefined if that is not known yet. */
  total: (Record<Counter, number> & { milliseconds: number }) | undefined;
  /** The time of the service, in milliseconds. */
  now: number;
  /** When the last status came, by the clock of the reader, if none comes any more; and the problem that comes instead. */
  lost: { since: number; problem: string | undefined } | undefined;
}

const second = 1000;
const day = 86_400 * second;

/** How long consumers may take to load new keys before it is a finding. */
const applyGrace = 60 * second;
/** How late a rotation may be. */
const rotationGrace = 60 * second;
/** How long after an update a node of the fleet may report the generation before. */
const reportGrace = 15 * second;
/** The longest lifetime of a ticket (RFC 8446): a key should not encrypt for longer. */
const longestUse = 7 * day;
/** The lookups that a ratio needs, and the ratio below which it is a finding. */
const enoughLookups = 100;
const lowRatio = 0.5;
/** The share of evicted sessions among stored ones from which on it is a finding. */
const manyEvicted = 0.05;

/** Titles of degraded health checks, and whether they harm resumption. */
const checks: Record<string, { severity: Severity; title: string }> = {
  fleet: { severity: "critical", title: "Redis is down or refuses writes" },
  ticket_key_file: { severity: "critical", title: "The ticket-key file cannot be loaded" },
  state_file: { severity: "warning", title: "The state file cannot be saved" },
  audit_log: { severity: "warning", title: "The audit log cannot be written" },
};

const order: Severity[] = ["critical", "warning"];

/** Lists what is wrong, worst first; nothing if resumption is healthy. */
export function findings(facts: Facts): Finding[] {
  const found = [...connection(facts), ...health(facts), ...fleet(facts), ...consumers(facts), ...rotation(facts), ...sessions(facts)];
  return found.sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity));
}

function* connection({ lost }: Facts): Iterable<Finding> {
  if (lost) {
    yield {
      severity: "critical",
      code: "no_status",
      title: lost.problem === undefined ? "The service does not answer" : "The service answers with an error",
      detail: `${lost.problem === undefined ? "" : `${lost.problem} `}The last status came at ${clock(lost.since)}. Everything below dates from then.`,
    };
  }
}

function* health({ status }: Facts): Iterable<Finding> {
  for (const check of status.health.checks) {
    if (check.status === "ok") {
      continue;
    }
    const known =
      check.status === "failing"
        ? { severity: "critical" as const, title: "The service is stopping" }
        : (checks[check.name] ?? { severity: "warning" as const, title: `The check ${check.name} is degraded` });
    yield { ...known, code: `check_${check.name}`, detail: check.detail ?? "" };
  }
}

function* fleet({ status, now }: Facts): Iterable<Finding> {
  if (!status.fleet?.connected) {
    return; // what it knows of others is old
  }
  const { generation, updated_at } = status.ticket_keys;
  const settled = Date.parse(updated_at) + reportGrace;
  const label = (n: { host: string; listen: string }) => `${n.host} (${n.listen})`;
  const differ = status.fleet.nodes.filter((n) => !n.missing && n.generation !== generation && Date.parse(n.seen_at) > settled);
  if (differ.length > 0) {
    yield {
      severity: "critical",
      code: "nodes_differ",
      title: `${plural(differ.length, "node")} of the fleet ${differ.length === 1 ? "has" : "have"} different ticket keys`,
      detail: `${names(differ.map(label))}. Tickets may not resume between them and this node.`,
    };
  }
  const missing = status.fleet.nodes.filter((n) => n.missing);
  if (missing.length > 0) {
    const last = Math.max(...missing.map((n) => Date.parse(n.seen_at)));
    yield {
      severity: "warning",
      code: "nodes_missing",
      title: `${plural(missing.length, "node")} of the fleet ${missing.length === 1 ? "does" : "do"} not report`,
      detail: `${names(missing.map(label))}, last seen ${duration(now - last)} ago.`,
    };
  }
}

function* consumers({ consumers, now }: Facts): Iterable<Finding> {
  const inState = (state: ConsumerState, grace: number) =>
    (consumers ?? []).filter((c) => c.state === state && now - Date.parse(c.since) > grace);
  const list = (c: Consumer[]) => names(c.map(({ name, detail }) => (detail ? `${name} (${detail})` : name)));

  const failed = inState("failed", 0);
  if (failed.length > 0) {
    yield {
      severity: "critical",
      code: "consumers_failed",
      title: `${plural(failed.length, "consumer")} could not load the ticket keys`,
      detail: `${list(failed)}.`,
    };
  }
  const stale = inState("stale", applyGrace);
  if (stale.length > 0) {
    yield {
      severity: "critical",
      code: "consumers_stale",
      title: `${plural(stale.length, "consumer")} ${stale.length === 1 ? "holds" : "hold"} old ticket keys`,
      detail: `${list(stale)}. Tickets under newer keys do not resume there.`,
    };
  }
  const applying = inState("applying", applyGrace);
  if (applying.length > 0) {
    yield {
      severity: "warning",
      code: "consumers_applying",
      title: `${plural(applying.length, "consumer")} ${applying.length === 1 ? "has" : "have"} been loading the ticket keys for more than a minute`,
      detail: `${list(applying)}.`,
    };
  }
  const missing = inState("missing", 0);
  if (missing.length > 0) {
    yield {
      severity: "warning",
      code: "consumers_missing",
      title: `${plural(missing.length, "consumer")} no longer ${missing.length === 1 ? "reports" : "report"}`,
      detail: `${list(missing)}.`,
    };
  }
}

function* rotation({ status, now }: Facts): Iterable<Finding> {
  const { keys, next_rotation_at } = status.ticket_keys;
  const { activation } = status.consumers;
  if (activation?.waiting) {
    yield {
      severity: "warning",
      code: "rotation_waits",
      title: `The rotation waits for ${plural(activation.behind?.length ?? 0, "consumer")}`,
      detail: `${names(activation.behind ?? [])}${activation.until ? `. It happens at ${clock(Date.parse(activation.until))} at the latest` : ""}.`,
    };
  } else if (next_rotation_at !== undefined) {
    const late = now - Date.parse(next_rotation_at);
    if (late > rotationGrace) {
      yield {
        severity: "warning",
        code: "rotation_overdue",
        title: "The rotation is overdue",
        detail: `It was due ${duration(late)} ago. The log of the service says why it has not happened.`,
      };
    }
  }
  const current = keys.find((key) => key.role === "current");
  if (current?.activated_at !== undefined && now - Date.parse(current.activated_at) > longestUse) {
    yield {
      severity: "warning",
      code: "key_old",
      title: "The current ticket key is old",
      detail: `It has encrypted tickets for ${duration(now - Date.parse(current.activated_at))}. Anyone who gets the key can decrypt all of them.`,
    };
  }
}

function* sessions({ status, total }: Facts): Iterable<Finding> {
  if (!total || !status.cache.enabled) {
    return;
  }
  const span = `in the last ${duration(total.milliseconds)}`;
  const lookups = total.hits + total.misses;
  if (lookups >= enoughLookups && total.hits / lookups < lowRatio) {
    yield {
      severity: "warning",
      code: "low_ratio",
      title: "Most session lookups find nothing",
      detail: `${percent(total.hits / lookups)} of ${count(lookups)} lookups were hits ${span}.`,
    };
  }
  if (total.evicted > 0 && total.evicted >= manyEvicted * total.stored) {
    yield {
      severity: "warning",
      code: "evictions",
      title: "The cache evicts sessions before they expire",
      detail: `${plural(total.evicted, "session")} ${span}. ${
        status.cache.max_sessions === undefined ? "A larger --cache-memory keeps them." : "A larger --cache-memory or --cache-max-sessions keeps them."
      }`,
    };
  }
}
