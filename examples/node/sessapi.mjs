// Share TLS resumption between Node.js HTTPS servers through sessapi.
//
//   shareSessions(server, { url })              resumption by session ID (TLS 1.2 and older)
//   followTicketKeys(server, { url, everyMs })  resumption by session ticket (TLS 1.2 and 1.3)
//
// When sessapi is away, slow or wrong, a client gets a full handshake; a
// connection never fails for it. NODE_DEBUG=sessapi tells what went wrong,
// without session or key bytes.

import { randomBytes } from 'node:crypto';
import { debuglog } from 'node:util';

const debug = debuglog('sessapi');

// No client waits for the keys.
const KEYS_TIMEOUT_MS = 5_000;
// sessapi stores no session above 64 KiB; 64 ticket keys are smaller.
const MAX_ANSWER_BYTES = 64 * 1024;
// name 16, HMAC-SHA256 secret 16, AES-128 key 16: one record of format=ats,
// and what server.setTicketKeys() takes.
const KEY_BYTES = 48;

/**
 * Stores each session that `server` makes in sessapi, and looks up the sessions
 * of returning clients there.
 *
 * Every server that shares sessions needs the same `sessionIdContext` option.
 * A client waits for its handshake while sessapi is asked, so `timeoutMs` bounds
 * each call.
 *
 * @param {import('node:tls').Server} server a tls or https server
 * @param {{ url: string, timeoutMs?: number }} options url of sessapi; longest call
 */
export function shareSessions(server, { url, timeoutMs = 250 }) {
  const address = (id) => new URL(`/sessions/${id.toString('hex')}`, url);

  // Node holds the connection until done() is called. It is called once the
  // session is stored, so a client that comes back at once finds it.
  server.on('newSession', async (id, session, done) => {
    await call(address(id), timeoutMs, {
      method: 'PUT',
      headers: { 'content-type': 'application/octet-stream' },
      body: session,
    });
    done();
  });

  server.on('resumeSession', async (id, done) => {
    const answer = await call(address(id), timeoutMs, {
      headers: { accept: 'application/octet-stream' },
    });
    done(null, answer?.status === 200 ? answer.body : null);
  });
}

/**
 * Gives `server` the ticket keys of sessapi and keeps them up to date: new
 * tickets are made under the first key, tickets under the others still resume
 * and are replaced. While sessapi is away the last keys stay in use; before the
 * first answer these are the random ones that Node makes for itself.
 *
 * `ready` is the first `refresh()`. It, like every `refresh()`, never rejects:
 * true says that the server has the keys that sessapi has now. A `refresh()`
 * during another one shares its result. `stop()` ends the polling; the keys stay.
 *
 * @param {import('node:tls').Server} server a tls or https server
 * @param {{ url: string, everyMs?: number }} options url of sessapi; time between polls
 * @returns {{ ready: Promise<boolean>, refresh: () => Promise<boolean>, stop: () => void }}
 */
export function followTicketKeys(server, { url, everyMs = 10_000 }) {
  const address = new URL('/ticket-keys?format=ats', url);
  let keys; // a Buffer of whole records, the first encrypts
  let etag;
  let underway;

  async function load() {
    const answer = await call(address, KEYS_TIMEOUT_MS, {
      headers: { accept: 'application/octet-stream', ...(etag && { 'if-none-match': etag }) },
    });
    const loaded = answer?.status === 200 && isKeySet(answer.body);
    const old = keys;
    if (loaded) {
      keys = answer.body;
      etag = answer.headers.get('etag');
    }
    // On every poll: server.setSecureContext() leaves the server without them.
    if (keys) useTicketKeys(server, keys);
    if (loaded) old?.fill(0);
    return loaded || answer?.status === 304;
  }

  const refresh = () => (underway ??= load().finally(() => { underway = undefined; }));
  const timer = setInterval(refresh, everyMs).unref();
  return { ready: refresh(), refresh, stop: () => clearInterval(timer) };
}

function isKeySet(bytes) {
  const ok = bytes.length > 0 && bytes.length % KEY_BYTES === 0;
  if (!ok) debug('ticket keys: %d bytes are no set of %d-byte keys', bytes.length, KEY_BYTES);
  return ok;
}

function useTicketKeys(server, bytes) {
  // Public, but one key only: it encrypts, and nothing else decrypts.
  server.setTicketKeys(bytes.subarray(0, KEY_BYTES));

  // Not public: OpenSSL's ticket key callback, which Node has for a test of its
  // own (src/crypto/crypto_context.cc, TicketKeyCallback). Where it is missing,
  // the server goes on with the first key.
  const context = server._sharedCreds?.context;
  if (typeof context?.enableTicketKeyCallback !== 'function') return;

  const keys = [];
  for (let at = 0; at < bytes.length; at += KEY_BYTES) {
    keys.push({
      name: bytes.subarray(at, at + 16),
      hmac: bytes.subarray(at + 16, at + 32),
      aes: bytes.subarray(at + 32, at + 48),
    });
  }
  context.onticketkeycallback = (name, _iv, encrypt) => {
    const [first] = keys;
    if (encrypt) return [1, first.hmac, first.aes, first.name, randomBytes(16)];

    const key = keys.find((k) => k.name.equals(name));
    // SSL_CTX_set_tlsext_ticket_key_cb(3): 0 is a full handshake, 1 resumes, 2
    // resumes and sends a new ticket. Node wants two buffers for 0 as well, and
    // aborts the process without them.
    if (!key) return [0, first.hmac, first.aes];
    return [key === first ? 1 : 2, key.hmac, key.aes];
  };
  context.enableTicketKeyCallback();
}

// One bounded exchange with sessapi; never rejects, undefined when there was no
// answer. fetch keeps its connections open between calls.
async function call(address, timeoutMs, init) {
  try {
    const response = await fetch(address, {
      ...init,
      redirect: 'error',
      signal: AbortSignal.timeout(timeoutMs),
    });
    const chunks = [];
    let size = 0;
    for await (const chunk of response.body ?? []) {
      size += chunk.length;
      if (size > MAX_ANSWER_BYTES) throw new RangeError(`over ${MAX_ANSWER_BYTES} bytes`);
      chunks.push(chunk);
    }
    if (response.status >= 400) debug('%s: %d', address.pathname, response.status);
    return { status: response.status, headers: response.headers, body: Buffer.concat(chunks) };
  } catch (err) {
    debug('%s: %s', address.pathname, err.cause?.code ?? err.message);
    return undefined;
  }
}
