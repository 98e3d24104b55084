// An HTTPS server that shares TLS resumption through sessapi.
//
//   node server.mjs --cert cert.pem --key key.pem --mode sessions|tickets
//                   [--port 8443] [--sessapi http://127.0.0.1:8440] [--name A]
//                   [--timeout-ms 250] [--every-ms 1000]
//
// When it listens it prints one JSON line: {"name": "A", "port": 8443}. Port 0
// takes a free one. SIGTERM and SIGINT stop it.

import { constants } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { parseArgs } from 'node:util';
import { followTicketKeys, shareSessions } from './sessapi.mjs';

const { values: args } = parseArgs({
  options: {
    cert: { type: 'string', default: 'cert.pem' },
    key: { type: 'string', default: 'key.pem' },
    mode: { type: 'string', default: 'tickets' },
    port: { type: 'string', default: '8443' },
    sessapi: { type: 'string', default: 'http://127.0.0.1:8440' },
    name: { type: 'string', default: String(process.pid) },
    'timeout-ms': { type: 'string', default: '250' },
    'every-ms': { type: 'string', default: '1000' },
  },
});
if (args.mode !== 'sessions' && args.mode !== 'tickets') {
  console.error(`--mode is sessions or tickets, not ${args.mode}`);
  process.exit(2);
}

const server = createServer({
  cert: readFileSync(args.cert),
  key: readFileSync(args.key),
  // Names the application that sessions belong to; OpenSSL resumes none of
  // another one. Node's default is made of the command line, so it differs from
  // server to server.
  sessionIdContext: 'sessapi-example',
  // TLS 1.3 has no resumption by session ID, and a ticket would make the stored
  // session needless.
  ...(args.mode === 'sessions' && {
    maxVersion: 'TLSv1.2',
    secureOptions: constants.SSL_OP_NO_TICKET,
  }),
}, (req, res) => {
  res.setHeader('content-type', 'application/json');
  res.end(JSON.stringify({
    name: args.name,
    reused: req.socket.isSessionReused(),
    protocol: req.socket.getProtocol(),
  }));
});

if (args.mode === 'sessions') {
  shareSessions(server, { url: args.sessapi, timeoutMs: Number(args['timeout-ms']) });
} else {
  const keys = followTicketKeys(server, { url: args.sessapi, everyMs: Number(args['every-ms']) });
  server.on('close', keys.stop);
  if (!await keys.ready) console.error('no ticket keys from sessapi yet; going on without');
}

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.once(signal, () => {
    server.close();
    server.closeAllConnections();
  });
}
server.listen(Number(args.port), '127.0.0.1', () => {
  console.log(JSON.stringify({ name: args.name, port: server.address().port }));
});
