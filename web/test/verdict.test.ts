import assert from "node:assert/strict";
import { test } from "node:test";
import type { Client, Consumer, Status, TicketKey } from "../src/api.ts";
import { bytes, duration, names, percent, rate, short } from "../src/format.ts";
import { add, latest, rates, type Sample, sample, total } from "../src/history.ts";
import { lives, ordered } from "../src/keyring.tsx";
import { describe, follow, Parser } from "../src/stream.ts";
import { type Facts, findings } from "../src/verdict.ts";

const now = Date.parse("2026-11-30T12:00:00Z");
const ago = (seconds: number) => new Date(now - 1000 * seconds).toISOString();
const hour = 3600;

function key(role: TicketKey["role"], created: number, activated?: number): TicketKey {
  return {
    name: `${role}-${created}`,
    role,
    bits: 256,
    fingerprint: "",
    created_at: ago(created),
    ...(activated !== undefined && { activated_at: ago(activated) }),
  };
}

function healthy(): Facts & { consumers: Consumer[] } {
  return {
    status: {
      health: { status: "ok", checks: [{ name: "server", status: "ok" }] },
      version: "v1",
      started_at: ago(hour),
      uptime_seconds: hour,
      cache: { enabled: true },
      ticket_keys: {
        generation: 7,
        updated_at: ago(hour),
        source: "rotation",
        next_rotation_at: ago(-hour),
        keys: [key("current", 2 * hour, hour), key("next", hour), key("previous", 3 * hour, 2 * hour)],
      },
      consumers: {},
    },
    consumers: [],
    total: { hits: 900, misses: 100, stored: 500, expired: 400, evicted: 0, milliseconds: 300_000 },
    now,
    lost: undefined,
  };
}

function consumer(state: Consumer["state"], since: number, detail?: string): Consumer {
  return {
    name: `edge-1/${state}`,
    kind: "nginx",
    generation: 6,
    behind: state !== "current",
    state,
    reported_at: ago(1),
    since: ago(since),
    ...(detail !== undefined && { detail }),
  };
}

function node(host: string, generation: number, seen: number, missing = false) {
  return { host, listen: ":8440", version: "v1", generation, seen_at: ago(seen), missing };
}

function fleet(...nodes: ReturnType<typeof node>[]): NonNullable<Status["fleet"]> {
  return { namespace: "sessapi", connected: true, since: ago(hour), local_hits: 0, remote_hits: 0, misses: 0, nodes };
}

const codes = (facts: Facts) => findings(facts).map((f) => f.code).join(" ");

test("nothing is wrong", () => {
  const facts = healthy();
  facts.consumers = [consumer("current", hour)];
  facts.status.fleet = fleet(node("a", 7, 1), node("b", 7, 4));
  assert.deepEqual(findings(facts), []);
});

test("each finding, and that it needs its cause", () => {
  const cases: [string, (f: ReturnType<typeof healthy>) => void][] = [
    ["no_status", (f) => (f.lost = { since: now, problem: undefined })],
    ["check_server", (f) => f.status.health.checks.push({ name: "server", status: "failing", detail: "draining" })],
    ["check_fleet", (f) => f.status.health.checks.push({ name: "fleet", status: "degraded", detail: "Redis is away" })],
    ["check_audit_log", (f) => f.status.health.checks.push({ name: "audit_log", status: "degraded" })],
    ["check_other", (f) => f.status.health.checks.push({ name: "other", status: "degraded" })],
    ["consumers_failed", (f) => f.consumers.push(consumer("failed", 1))],
    ["consumers_stale", (f) => f.consumers.push(consumer("stale", 61))],
    ["", (f) => f.consumers.push(consumer("stale", 59))],
    ["consumers_applying", (f) => f.consumers.push(consumer("applying", 61))],
    ["", (f) => f.consumers.push(consumer("applying", 59))],
    ["consumers_missing", (f) => f.consumers.push(consumer("missing", 1))],
    ["", (f) => ((f as Facts).consumers = undefined)],
    ["nodes_differ", (f) => (f.status.fleet = fleet(node("a", 7, 1), node("b", 6, 1)))],
    ["nodes_missing", (f) => (f.status.fleet = fleet(node("a", 7, 1), node("b", 6, 100, true)))],
    // It may have reported before it had the update.
    ["", (f) => ((f.status.ticket_keys.updated_at = ago(10)), (f.status.fleet = fleet(node("b", 6, 5))))],
    // Cut off from Redis, the node knows only what was.
    ["", (f) => (f.status.fleet = { ...fleet(node("b", 6, 1, true)), connected: false })],
    ["rotation_overdue", (f) => (f.status.ticket_keys.next_rotation_at = ago(61))],
    ["", (f) => (f.status.ticket_keys.next_rotation_at = ago(59))],
    ["", (f) => delete f.status.ticket_keys.next_rotation_at],
    [
      "rotation_waits",
      (f) => {
        f.status.ticket_keys.next_rotation_at = ago(600);
        f.status.consumers = { activation: { waiting: true, behind: ["edge-1/web"], until: ago(-60) } };
      },
    ],
    ["key_old", (f) => (f.status.ticket_keys.keys[0]!.activated_at = ago(7 * 24 * hour + 1))],
    ["", (f) => (f.status.ticket_keys.keys[0]!.activated_at = ago(7 * 24 * hour))],
    ["low_ratio", (f) => (f.total!.misses = 901)],
    ["", (f) => ((f.total!.hits = 1), (f.total!.misses = 98))],
    ["", (f) => ((f.total!.misses = 901), (f.status.cache.enabled = false))],
    ["evictions", (f) => (f.total!.evicted = 25)],
    ["", (f) => (f.total!.evicted = 24)],
    ["", (f) => (f.total = undefined)],
  ];
  for (const [want, change] of cases) {
    const facts = healthy();
    change(facts);
    assert.equal(codes(facts), want, String(change));
  }
});

test("the worst comes first, and names what it is about", () => {
  const facts = healthy();
  facts.total!.evicted = 500;
  facts.consumers = [consumer("missing", 5), consumer("failed", 5, "nginx -t: exit status 1")];
  facts.lost = { since: now, problem: "Too many." };
  assert.equal(codes(facts), "no_status consumers_failed consumers_missing evictions");
  assert.match(findings(facts)[0]!.detail, /^Too many\. The last status came at/);
  assert.match(findings(facts)[1]!.title, /^1 consumer could not load/);
  assert.match(findings(facts)[1]!.detail, /edge-1\/failed \(nginx -t: exit status 1\)/);
});

test("rates and totals", () => {
  const at = (seconds: number, hits: number): Sample => ({ at: 1000 * seconds, hits, misses: 0, stored: 0, expired: 0, evicted: 0 });
  let history = [at(0, 100)];
  assert.equal(total(history), undefined);
  assert.equal(latest(history, "hits"), 0);
  history = add(history, at(2, 110));
  assert.equal(add(history, at(2.9, 120)), history, "too soon");
  history = add(history, at(4, 130));
  assert.deepEqual(rates(history, "hits"), [null, 5, 10]);
  assert.equal(latest(history, "hits"), 10);
  assert.equal(total(history)!.hits, 30);
  history = add(history, at(60, 186));
  assert.deepEqual(rates(history, "hits").at(-1), null, "nothing is known of a gap");
  history = add(history, at(304, 200));
  assert.equal(total(history)!.hits, 70, "over five minutes");
  history = add(history, at(306, 3));
  assert.deepEqual(history, [at(306, 3)], "the service has restarted");
  history = add(history, at(306 + 900, 4));
  assert.equal(add(history, at(306 + 901, 5)).length, 2, "old samples are dropped");
});

test("in a fleet, a hit in Redis is a hit", () => {
  const { status } = healthy();
  status.cache = { enabled: true, hits: 1, misses: 9 };
  status.fleet = { ...fleet(), local_hits: 1, remote_hits: 6, misses: 3 };
  const { hits, misses } = sample(status, 0);
  assert.deepEqual({ hits, misses }, { hits: 7, misses: 3 });
});

test("the lives of keys", () => {
  const set = healthy().status.ticket_keys;
  assert.deepEqual(ordered(set.keys).map((k) => k.role), ["next", "current", "previous"]);
  const hours = (t: number) => (t - now) / 3_600_000;
  const [next, current, previous] = lives(set, now).map((spans) => spans.map((s) => [s.kind, hours(s.from), hours(s.to)]));
  assert.deepEqual(next, [["held", -1, 0]]);
  assert.deepEqual(current, [["held", -2, -1], ["encrypts", -1, 0], ["planned", 0, 1]]);
  assert.deepEqual(previous, [["held", -3, -2], ["encrypts", -2, -1], ["decrypts", -1, 0]]);
});

test("a stream of events in pieces of any size", () => {
  const stream = "id: r-1\n\nid: r-2\r\nevent: fleet.changed\r\ndata: {\"a\":\r\ndata:  1}\r\n\r\n:\r\rdata\n\nid: r-3\ndata: x\n\ndata: cut";
  const want = [
    { id: "r-2", event: "fleet.changed", data: '{"a":\n 1}' },
    { id: "r-2", event: "message", data: "" },
    { id: "r-3", event: "message", data: "x" },
  ];
  for (let size = 1; size < stream.length; size++) {
    const parser = new Parser();
    const got = [];
    for (let i = 0; i < stream.length; i += size) {
      got.push(...parser.feed(new TextDecoder().decode(new TextEncoder().encode(stream.slice(i, i + size)))));
    }
    assert.deepEqual(got, want, `pieces of ${size}`);
    assert.equal(parser.lastID, "r-3");
  }
});

test("a stream that the page cannot read is closed", async () => {
  const end = new AbortController();
  let request: AbortSignal | undefined;
  const send = async (_method: string, _path: string, _headers: object, signal: AbortSignal) => {
    request = signal;
    return new Response(new ReadableStream({ start: (body) => body.enqueue(new TextEncoder().encode("event: fleet.changed\ndata: {\n\n")) }));
  };
  const states: string[] = [];
  await follow(
    { send } as unknown as Client,
    [],
    end.signal,
    (messages) => messages.forEach(describe),
    (state) => {
      states.push(state);
      if (state === "lost") {
        assert(request?.aborted);
        end.abort();
      }
    },
  );
  assert.deepEqual(states, ["open", "lost"]);
});

test("events in words", () => {
  const text = (event: string, data: object) => describe({ id: "", event, data: JSON.stringify({ time: ago(0), ...data }) }).text;
  const { ticket_keys } = healthy().status;
  assert.equal(text("ticket_keys.updated", { ticket_keys }), "Generation 7 from rotation; key current- encrypts");
  assert.equal(
    text("ticket_keys.rejected", { source: "api", reason: "invalid", errors: [{ field: "keys[0]", reason: "is weak" }] }),
    "An update from api was rejected (invalid): keys[0] is weak",
  );
  assert.equal(text("consumer.changed", { consumer: consumer("failed", 1, "no"), forgotten: false }), "edge-1/failed is failed at generation 6: no");
  assert.equal(text("consumer.changed", { consumer: consumer("current", 1), forgotten: true }), "edge-1/current was forgotten");
  assert.equal(text("fleet.changed", { connected: false }), "Redis does not answer");
  assert.equal(text("dropped", { count: 3 }), "3 events are missing: this browser was too slow");
  assert.equal(text("dropped", {}), "Earlier events are not known");
  assert.equal(
    text("session.evicted", { id_hash: "0123456789abcdef", size: 159, format: "openssl", idle_seconds: 90 }),
    "ID hash 0123456789ab, 159 B, openssl, unused for 90 s",
  );
  assert.equal(text("session.stored", { id: "01", id_hash: "ff" }), "ID 01");
});

test("figures for people", () => {
  assert.deepEqual([0, 99_999, 123_456, 1_234_567].map(short), ["0", "99,999", "123 k", "1.23 M"]);
  assert.deepEqual([0, 0.44, 12.3, 3400].map(rate), ["0", "0.4", "12", "3,400"]);
  assert.deepEqual([0, 0.0001, 0.931, 0.99999, 1].map(percent), ["0 %", "< 0.1 %", "93.1 %", "> 99.9 %", "100 %"]);
  assert.deepEqual([0, 1023, 1536, 268_435_456].map(bytes), ["0 B", "1023 B", "1.50 KiB", "256 MiB"]);
  assert.deepEqual([-5, 59_000, 185_000, 42_720_000, 525_600_000].map(duration), ["0 s", "59 s", "3 min 5 s", "11 h 52 min", "6 d 2 h"]);
  assert.equal(names(["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
});
