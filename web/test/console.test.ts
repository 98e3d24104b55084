// The console in a real browser, with real services. SESSAPI is the command, CHROMIUM the browser.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, type TestContext, test as run } from "node:test";
import type { Page } from "playwright-core";
import type { Status } from "../src/api.ts";
import { accessible, closeBrowser, eventually, fits, freePort, open, Process, scratch, serve, type Service, shows } from "./harness.ts";

const skip = process.env["SESSAPI"] === undefined && "make test-console runs it";
const test = (name: string, body: (t: TestContext) => Promise<void>) => run(name, { skip, timeout: 300_000 }, body);

after(closeBrowser);

const verdict = ".verdict h2";

const newToken = () =>
  `sessapi_${[...randomBytes(52)].map((byte) => "abcdefghijklmnopqrstuvwxyz234567"[byte % 32]).join("")}`;

const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");

/** Writes a policy of identities with one token each. */
function policy(t: TestContext, ...identities: { name: string; roles: string[]; token: string; expires?: Date }[]): string {
  const path = join(scratch(t), "policy.yaml");
  writeFileSync(
    path,
    JSON.stringify({
      identities: identities.map(({ name, roles, token, expires }) => ({
        name,
        roles,
        tokens: [{ sha256: sha256(token), ...(expires && { expires: expires.toISOString() }) }],
      })),
    }),
    { mode: 0o600 },
  );
  return path;
}

async function login(page: Page, token: string): Promise<void> {
  await page.getByLabel("Token", { exact: true }).fill(token);
  await page.getByRole("button", { name: "Log in" }).click();
}

const status = async (service: Service, token?: string) => (await service.send("GET", "/status", undefined, token)).json() as Promise<Status>;

function report(service: Service, name: string, generation: number, state = "current", detail?: string): Promise<Response> {
  return service.send("PUT", `/consumers/${name}`, { kind: "nginx", generation, state, detail, expires_in_seconds: 600 });
}

const tile = (page: Page, label: string) => page.locator(".tile", { has: page.getByText(label, { exact: true }) });

/** Opens a dialog with a button, and returns it. */
async function ask(page: Page, button: string | RegExp) {
  await page.getByRole("button", { name: button }).click();
  const dialog = page.getByRole("dialog");
  await dialog.waitFor();
  return dialog;
}

test("a healthy service", async (t) => {
  const service = await serve(t);
  const { generation } = (await status(service)).ticket_keys;
  await report(service, "edge-1/web", generation);
  const page = await open(t, `${service.origin}/`);
  assert.equal(new URL(page.url()).pathname, "/console", "a browser is sent to the console");
  await shows(page, verdict, "Resumption is healthy");
  await shows(page, ".verdict p", /The consumer holds the active ticket keys; the next rotation is in 1[12] h/);
  await page.waitForFunction(() => document.title.startsWith("✔ healthy"));

  // Figures that move.
  await service.send("PUT", "/sessions/01?ttl_seconds=600", "opaque");
  for (let i = 0; i < 3; i++) {
    await service.send("GET", "/sessions/01");
  }
  await fetch(`${service.origin}/sessions/02`);
  await shows(page, ".tile", /Hit ratio75\.0 %/);
  await shows(page, ".tile", /Sessions1kept now/);
  await shows(page, ".tile", /Memory[\d.]+ MiB[\d.]+ % of 256 MiB/);
  assert.match((await tile(page, "Misses").textContent())!, /1, last/);
  assert.equal(await page.locator(".plot canvas").count(), 2);
  assert.match((await page.getByRole("img", { name: /^Lookups per second/ }).getAttribute("aria-label"))!, /Now: Hits/);

  // The keyring.
  await shows(page, ".keyring .facts", `generation ${generation}`);
  assert.deepEqual(await page.locator(".keyring tbody .role").allTextContents(), ["next", "current", "previous"]);
  await shows(page, ".nodes", "This node is not in a fleet");
  await shows(page, "header", "no policy: anyone may do everything");

  await accessible(page);
  await fits(page);
});

test("every action of an administrator", async (t) => {
  const token = newToken();
  const service = await serve(t, [`--policy=${policy(t, { name: "alice", roles: ["admin"], token })}`]);
  const page = await open(t, `${service.origin}/console`);
  await page.getByRole("heading", { name: "sessapi" }).waitFor();
  await accessible(page);
  await fits(page);

  await login(page, newToken());
  await shows(page, "[role=alert]", "The service does not accept this token.");
  await login(page, "not a token");
  await shows(page, "[role=alert]", "A token is sessapi_ followed by 52 letters or digits.");
  await login(page, token);
  await shows(page, "header", "alice: admin");
  assert(!(await page.content()).includes(token), "the token is on the page");
  assert.equal(await page.evaluate(() => localStorage.length + sessionStorage.length + document.cookie.length), 0);

  // Rotate, with the keyboard alone.
  const before = (await status(service, token)).ticket_keys;
  const rotate = page.getByRole("button", { name: "Rotate", exact: true });
  await rotate.focus();
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog");
  await shows(page, "dialog", `${before.keys.find((k) => k.role === "next")!.name.slice(0, 8)}… becomes the current key`);
  await accessible(page);
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  assert(await rotate.evaluate((button) => button === document.activeElement), "the focus is back");
  assert.equal((await status(service, token)).ticket_keys.generation, before.generation, "nothing was done");
  await page.keyboard.press("Enter");
  await dialog.getByRole("button", { name: "Rotate" }).press("Enter");
  await shows(page, ".notice", /^Rotated\. Generation \d+ is active\./);
  const after = (await status(service, token)).ticket_keys;
  assert.notEqual(after.generation, before.generation);
  await shows(page, ".keyring .facts", `generation ${after.generation}`);
  await shows(page, ".events td", `Generation ${after.generation} from rotation`);

  // The keys change while the dialog is open: nothing happens.
  await ask(page, "Rotate");
  await service.send("POST", "/ticket-keys/rotate", undefined, token);
  await dialog.getByRole("button", { name: "Rotate" }).click();
  await shows(page, "dialog [role=alert]", "The ticket keys have changed since you opened this. Nothing was done.");
  await dialog.getByRole("button", { name: "Cancel" }).click();

  // Revoke, which needs the name.
  const name = (await status(service, token)).ticket_keys.keys.find((k) => k.role === "current")!.name;
  await ask(page, `Revoke key ${name}`);
  const revoke = dialog.getByRole("button", { name: "Revoke" });
  assert(await revoke.isDisabled());
  await dialog.getByRole("textbox").fill(name.slice(1));
  assert(await revoke.isDisabled());
  await dialog.getByRole("textbox").fill(name);
  await accessible(page);
  await revoke.click();
  await shows(page, ".notice", `Revoked key ${name}.`);
  await page.locator(`.keyring code:text("${name}")`).waitFor({ state: "detached" });
  assert(!(await status(service, token)).ticket_keys.keys.some((k) => k.name === name));

  // Find and remove a session.
  const session = readFileSync("../internal/sslsession/testdata/tls12.pem", "utf8");
  await fetch(`${service.origin}/sessions/8b1f0a6e2d?ttl_seconds=600`, {
    method: "PUT",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/x-pem-file" },
    body: session,
  });
  const id = page.getByLabel("Session ID");
  await id.fill("8b1");
  await page.getByRole("button", { name: "Find" }).click();
  await shows(page, ".sessions .empty", "2 to 64 hex digits of even length");
  await id.fill("ff");
  await id.press("Enter");
  await shows(page, ".sessions .empty", "There is no session with this ID");
  await id.fill("8B1F0A6E2D");
  await id.press("Enter");
  await shows(page, ".description", /Formatopenssl.*ProtocolTLSv1\.2.*CipherTLS_/);
  assert(!/[0-9a-f]{96}/i.test((await page.locator(".description").textContent())!), "a description holds no secret");
  await accessible(page);
  await ask(page, "Remove this session");
  await dialog.getByRole("button", { name: "Remove" }).click();
  await shows(page, ".notice", "Removed session 8b1f0a6e2d.");
  assert.equal((await status(service, token)).cache.entries, 0);

  // Flush, which needs the word.
  await service.send("PUT", "/sessions/0102?ttl_seconds=600", "opaque", token);
  await ask(page, "Remove all sessions");
  const flush = dialog.getByRole("button", { name: "Remove all" });
  assert(await flush.isDisabled());
  await dialog.getByRole("textbox").fill("flush");
  await flush.click();
  await shows(page, ".notice", "Removed 1 session.");
  assert.equal((await status(service, token)).cache.entries, 0);

  // Session events, with the IDs that an administrator may see.
  await page.getByLabel("Sessions too").check();
  await shows(page, ".stream", "live");
  await eventually("an event of a session", async () => {
    await service.send("PUT", "/sessions/0304?ttl_seconds=600", "opaque", token);
    await page.locator(".events td", { hasText: "ID 0304" }).first().waitFor({ timeout: 1000 });
  });

  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByLabel("Token", { exact: true }).waitFor();
  assert(!(await page.content()).includes("alice"), "the data is gone");
});

test("without a role there is the reason in place of the action", async (t) => {
  const token = newToken();
  const publisher = newToken();
  const blind = newToken();
  const service = await serve(t, [
    `--policy=${policy(
      t,
      { name: "wall", roles: ["observe"], token },
      { name: "carol", roles: ["observe", "key-publish"], token: publisher },
      { name: "edge", roles: ["key-consume"], token: blind },
    )}`,
  ]);
  const page = await open(t, `${service.origin}/console`);
  await login(page, blind);
  await shows(page, "[role=alert]", "The console needs an identity with the role observe.");
  await login(page, token);
  await shows(page, ".keyring .why", "Rotate: needs the role key-publish. wall has observe.");
  await shows(page, ".sessions .why", "Remove all sessions: needs the role admin. wall has observe.");
  assert.equal(await page.getByRole("button", { name: /Rotate|Revoke|Remove/ }).count(), 0);
  await accessible(page);

  await page.getByRole("button", { name: "Log out" }).click();
  await login(page, publisher);
  await page.getByRole("button", { name: "Rotate" }).waitFor();
  assert.equal(await page.getByRole("button", { name: /^Revoke key/ }).count(), 3);
  assert.equal(await page.getByRole("button", { name: /^Remove/ }).count(), 0);
});

test("a token that expires ends the console", async (t) => {
  const token = newToken();
  const expires = new Date(Date.now() + 15_000);
  const service = await serve(t, [`--policy=${policy(t, { name: "bob", roles: ["observe"], token, expires })}`]);
  const page = await open(t, `${service.origin}/console`);
  await login(page, token);
  await shows(page, "header", "bob: observe");
  await page.getByLabel("Token", { exact: true }).waitFor();
  assert(Date.now() >= expires.getTime() - 1000);
  await shows(page, "[role=alert]", "The service does not accept this token. It may have expired");
  assert(!/bob|generation/.test(await page.content()), "the data is gone");
});

test("a lost connection, and its return", async (t) => {
  const service = await serve(t);
  const page = await open(t, `${service.origin}/console`);
  await shows(page, verdict, "Resumption is healthy");
  await shows(page, ".stream", "live");
  await service.process.stop("SIGKILL");
  await shows(page, verdict, "The service does not answer");
  await shows(page, ".verdict p", "Everything below dates from then.");
  await shows(page, ".stream", "not connected; trying again");
  await accessible(page);
  const again = await serve(t, [], service.port);
  await shows(page, verdict, "Resumption is healthy");
  await shows(page, ".stream", "live");
  const { generation } = (await (await again.send("POST", "/ticket-keys/rotate")).json()) as { generation: number };
  await shows(page, ".events td", `Generation ${generation} from rotation`);
});

test("consumers: who is behind", async (t) => {
  const service = await serve(t);
  const { generation } = (await status(service)).ticket_keys;
  await report(service, "edge-1/web", generation);
  await report(service, "edge-2/web", generation - 1, "failed", "nginx -t: exit status 1");
  for (let i = 0; i < 60; i++) {
    await report(service, `edge-3/t${i}`, generation);
  }
  const page = await open(t, `${service.origin}/console`);
  await shows(page, verdict, "1 consumer could not load the ticket keys");
  await shows(page, ".verdict p", "edge-2/web (nginx -t: exit status 1)");
  await page.waitForFunction(() => document.title.startsWith("✖ 1 consumer"));
  const rows = page.locator(".consumers tbody tr");
  assert.match((await rows.first().textContent())!, /failed.*edge-2\/web.*behind/, "the worst is first");
  assert.equal(await rows.count(), 50);
  await page.getByRole("button", { name: "Show all 62" }).click();
  assert.equal(await rows.count(), 62);
  await accessible(page);
  await fits(page);
  await report(service, "edge-2/web", generation);
  await shows(page, verdict, "Resumption is healthy");
  await shows(page, ".events td", "edge-2/web is current");
});

test("the operations listener shows and changes nothing", async (t) => {
  const service = await serve(t, ["--ops-listen=127.0.0.1:0"]);
  const page = await open(t, `${service.ops}/`);
  await shows(page, verdict, "Resumption is healthy");
  await shows(page, ".keyring .why", "Rotate: this is the operations listener, which changes nothing.");
  await shows(page, ".stream", "live");
  assert.equal(await page.getByRole("button", { name: /Rotate|Revoke|Remove|Find/ }).count(), 0);
  await service.send("POST", "/ticket-keys/rotate");
  await shows(page, ".events td", "from rotation");
  const main = await open(t, `${service.origin}/console`);
  await main.getByRole("button", { name: "Rotate" }).waitFor();
});

test("a fleet, and the loss of Redis", async (t) => {
  const redisPort = await freePort();
  const redis = new Process(t, "redis-server", ["--port", String(redisPort), "--bind", "127.0.0.1", "--save", ""]);
  await redis.printed(/Ready to accept connections/);
  const seal = join(scratch(t), "seal.key");
  execFileSync(process.env["SESSAPI"]!, ["seal-key", "new", "--out", seal]);
  const shared = [`--redis=redis://127.0.0.1:${redisPort}`, `--seal-key-file=${seal}`];
  const one = await serve(t, shared);
  const two = await serve(t, shared);
  const page = await open(t, `${one.origin}/console`);
  await shows(page, verdict, "Resumption is healthy");
  await shows(page, ".nodes td, .nodes th", `127.0.0.1:${two.port}`);
  assert.deepEqual(await page.locator(".nodes .state").allTextContents(), ["up", "up"]);
  await accessible(page);
  await fits(page);
  await two.process.stop();
  await eventually("the stopped node is gone", async () => assert.equal(await page.locator(".nodes tbody tr").count(), 1));
  await redis.stop("SIGKILL");
  await shows(page, verdict, "Redis is down or refuses writes");
  await shows(page, ".events td", /Redis (has not answered|does not answer)/);
});

test("a client certificate is a log-in", async (t) => {
  const dir = scratch(t);
  const file = (name: string) => join(dir, name);
  const openssl = (...args: string[]) => execFileSync("openssl", args, { stdio: "pipe" });
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  openssl("req", "-x509", ...key, "-subj", "/CN=ca", "-keyout", file("ca.key"), "-out", file("ca.pem"));
  openssl("req", "-x509", ...key, "-subj", "/CN=s", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", file("s.key"), "-out", file("s.pem"));
  openssl(
    ...["req", "-x509", "-CA", file("ca.pem"), "-CAkey", file("ca.key"), ...key, "-subj", "/CN=dora"],
    ...["-addext", "subjectAltName=DNS:dora.example", "-addext", "extendedKeyUsage=clientAuth"],
    ...["-addext", "basicConstraints=critical,CA:false", "-keyout", file("c.key"), "-out", file("c.pem")],
  );
  writeFileSync(
    file("policy.yaml"),
    JSON.stringify({ identities: [{ name: "dora", roles: ["observe", "key-publish"], certificates: [{ dns: "dora.example" }] }] }),
    { mode: 0o600 },
  );
  const service = await serve(t, [
    `--tls-cert=${file("s.pem")}`,
    `--tls-key=${file("s.key")}`,
    `--tls-client-ca=${file("ca.pem")}`,
    `--policy=${file("policy.yaml")}`,
  ]);
  const page = await open(t, `${service.origin}/console`, {
    ignoreHTTPSErrors: true,
    clientCertificates: [{ origin: service.origin, certPath: file("c.pem"), keyPath: file("c.key") }],
  });
  await shows(page, "header", "dora: key-publish, observe");
  await ask(page, "Rotate");
  await page.getByRole("dialog").getByRole("button", { name: "Rotate" }).click();
  await shows(page, ".notice", "Rotated.");

  const stranger = await open(t, `${service.origin}/console`, { ignoreHTTPSErrors: true });
  await stranger.getByLabel("Token", { exact: true }).waitFor();
});
