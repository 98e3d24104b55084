import type { Status } from "./api.ts";

/** The counters of one answer. */
export interface Sample {
  /** When it arrived, in milliseconds. */
  at: number;
  hits: number;
  misses: number;
  stored: number;
  expired: number;
  evicted: number;
}

export type Counter = Exclude<keyof Sample, "at">;

const counters: Counter[] = ["hits", "misses", "stored", "expired", "evicted"];

/** How long samples are kept, and over what the figures in the tiles are, in milliseconds. */
export const kept = 15 * 60_000;
export const window = 5 * 60_000;

/** Beyond this pause between samples, in milliseconds, nothing is known of the time between. */
const gap = 15_000;

/** Reads the counters of a status. In a fleet, a lookup may find its session in Redis. */
export function sample(status: Status, at: number): Sample {
  const { cache, fleet } = status;
  return {
    at,
    hits: fleet ? fleet.local_hits + fleet.remote_hits : (cache.hits ?? 0),
    misses: fleet ? fleet.misses : (cache.misses ?? 0),
    stored: (cache.stored ?? 0) + (cache.replaced ?? 0),
    expired: cache.expired ?? 0,
    evicted: cache.evicted ?? 0,
  };
}

/** The least time between samples, in milliseconds: rates over less say little. */
const step = 1000;

/** Adds a sample. One with smaller counters is of another run of the service: nothing before it counts. */
export function add(history: Sample[], next: Sample): Sample[] {
  const last = history.at(-1);
  if (last && counters.some((c) => next[c] < last[c])) {
    return [next];
  }
  if (last && next.at - last.at < step) {
    return history;
  }
  return [...history.filter((s) => next.at - s.at <= kept), next];
}

/** What was counted over the window, or since the page was opened; undefined before two samples. */
export function total(history: Sample[]): (Record<Counter, number> & { milliseconds: number }) | undefined {
  const last = history.at(-1);
  const first = last && history.find((s) => last.at - s.at <= window);
  if (!first || first === last) {
    return undefined;
  }
  const sum = { milliseconds: last.at - first.at } as Record<Counter, number> & { milliseconds: number };
  for (const c of counters) {
    sum[c] = last[c] - first[c];
  }
  return sum;
}

/** The rate of a counter per second between the last two samples. */
export function latest(history: Sample[], counter: Counter): number {
  const [before, last] = history.slice(-2);
  return before && last ? (1000 * (last[counter] - before[counter])) / (last.at - before.at) : 0;
}

/** The rates of a counter per second, for a plot; null in a gap. */
export function rates(history: Sample[], counter: Counter): (number | null)[] {
  return history.map((s, i) => {
    const before = history[i - 1];
    return before && s.at - before.at <= gap ? (1000 * (s[counter] - before[counter])) / (s.at - before.at) : null;
  });
}
