// One HTTPS request that shows whether TLS resumed.
//
//   node client.mjs --port P [--host 127.0.0.1] [--tls 1.2|1.3]
//                   [--session-in FILE] [--session-out FILE]
//
// Prints {"reused", "protocol", "ticketName", "server"}: ticketName is the first
// 16 bytes of the ticket that the client holds afterwards, which is the name of
// the key it was made under, or null without a ticket; server is the answer. A
// session file is a secret: OpenSSL's SSL_SESSION as DER.

import { readFileSync, writeFileSync } from 'node:fs';
import { get } from 'node:https';
import { json } from 'node:stream/consumers';
import { parseArgs } from 'node:util';

const { values: args } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '8443' },
    tls: { type: 'string' },
    'session-in': { type: 'string' },
    'session-out': { type: 'string' },
  },
});

get({
  host: args.host,
  port: Number(args.port),
  agent: false,
  // This shows resumption, not trust: the example's certificate is self-signed.
  rejectUnauthorized: false,
  ...(args.tls && { minVersion: `TLSv${args.tls}`, maxVersion: `TLSv${args.tls}` }),
  ...(args['session-in'] && { session: readFileSync(args['session-in']) }),
}, async (response) => {
  // TLS 1.3 tickets follow the handshake, but come before the answer.
  const { socket } = response;
  const reused = socket.isSessionReused();
  const protocol = socket.getProtocol();
  const ticketName = socket.getTLSTicket()?.subarray(0, 16).toString('hex') ?? null;
  if (args['session-out']) writeFileSync(args['session-out'], socket.getSession(), { mode: 0o600 });

  const server = await json(response);
  console.log(JSON.stringify({ reused, protocol, ticketName, server }));
});
