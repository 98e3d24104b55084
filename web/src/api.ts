// The part of the API that the console uses: see openapi.yaml.

export type Role = "session-read" | "session-write" | "key-publish" | "key-consume" | "observe" | "admin";

export interface TicketKey {
  name: string;
  role: "current" | "next" | "previous";
  bits: number;
  fingerprint: string;
  created_at: string;
  activated_at?: string;
}

export interface TicketKeys {
  generation: number;
  updated_at: string;
  source: string;
  next_rotation_at?: string;
  keys: TicketKey[];
}

export interface Cache {
  enabled: boolean;
  entries?: number;
  bytes?: number;
  capacity_bytes?: number;
  max_sessions?: number;
  hits?: number;
  misses?: number;
  stored?: number;
  replaced?: number;
  expired?: number;
  evicted?: number;
}

export interface FleetNode {
  host: string;
  listen: string;
  version: string;
  generation: number;
  seen_at: string;
  missing: boolean;
}

export interface Fleet {
  namespace: string;
  connected: boolean;
  since: string;
  local_hits: number;
  remote_hits: number;
  misses: number;
  nodes: FleetNode[];
}

export interface Health {
  status: "ok" | "degraded" | "failing";
  checks: { name: string; status: "ok" | "degraded" | "failing"; detail?: string }[];
}

export interface Status {
  identity?: { name: string; roles: Role[] };
  health: Health;
  version: string;
  started_at: string;
  uptime_seconds: number;
  cache: Cache;
  ticket_keys: TicketKeys;
  consumers: { activation?: { waiting: boolean; behind?: string[]; until?: string } };
  fleet?: Fleet;
}

export type ConsumerState = "current" | "stale" | "applying" | "failed" | "missing";

export interface Consumer {
  name: string;
  kind: string;
  identity?: string;
  generation: number;
  behind: boolean;
  state: ConsumerState;
  detail?: string;
  reported_at: string;
  since: string;
}

export type Session = {
  id: string;
  size: number;
  format: string;
  stored_at: string;
  expires_at: string;
} & { [format in "openssl" | "boringssl"]?: Record<string, string | number | boolean> };

/** An answer that is a problem document. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
  ) {
    super(detail);
  }
}

/** How long an answer may take, in milliseconds. */
const patience = 8000;

/** Client calls the API. The token is here and nowhere else. */
export class Client {
  readonly #token: string | undefined;

  /** Without a token, the browser's client certificate counts, if there is one. */
  constructor(token?: string) {
    this.#token = token;
  }

  get hasToken(): boolean {
    return this.#token !== undefined;
  }

  /** Sends a request. An error is a Problem, or that of fetch when there is no answer. */
  async send(method: string, path: string, headers: Record<string, string> = {}, signal?: AbortSignal): Promise<Response> {
    const response = await fetch(path, {
      method,
      headers: this.#token === undefined ? headers : { ...headers, Authorization: `Bearer ${this.#token}` },
      signal: signal ?? AbortSignal.timeout(patience),
      cache: "no-store",
      redirect: "error",
    });
    if (response.ok) {
      return response;
    }
    const problem = (await response.json().catch(() => undefined)) as { code?: string; detail?: string } | undefined;
    throw new Problem(response.status, problem?.code ?? "", problem?.detail ?? `The service answered ${response.status}.`);
  }

  async #json<T>(method: string, path: string, headers?: Record<string, string>): Promise<T> {
    const response = await this.send(method, path, { Accept: "application/json", ...headers });
    return (await response.json()) as T;
  }

  status = () => this.#json<Status>("GET", "status");

  consumers = async () => (await this.#json<{ consumers: Consumer[] }>("GET", "consumers")).consumers;

  /** Whether this listener has the operations that change something. That for operations has not. */
  async canAct(): Promise<boolean> {
    try {
      await this.send("HEAD", "ticket-keys");
      return true;
    } catch (error) {
      if (error instanceof Problem && error.status === 404) {
        return false;
      }
      throw error;
    }
  }

  rotate = (generation: number) =>
    this.#json<TicketKeys>("POST", "ticket-keys/rotate", { "If-Match": `"${generation}"` });

  revoke = (name: string, generation: number) =>
    this.#json<TicketKeys>("DELETE", `ticket-keys/${name}`, { "If-Match": `"${generation}"` });

  session = (id: string) => this.#json<Session>("GET", `sessions/${id}`);

  removeSession = async (id: string) => void (await this.send("DELETE", `sessions/${id}`));

  flush = async () => (await this.#json<{ removed: number }>("DELETE", "sessions")).removed;
}
