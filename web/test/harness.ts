// Starts real services and a real browser for the tests of the console.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";

/** How long anything may take, in milliseconds: machines are busy. */
export const patience = 60_000;

export const delay = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Tries until it does not fail. */
export async function eventually<T>(what: string, attempt: () => Promise<T> | T): Promise<T> {
  let last: unknown;
  for (const end = Date.now() + patience; Date.now() < end; await delay(50)) {
    try {
      return await attempt();
    } catch (error) {
      last = error;
    }
  }
  throw new Error(`${what}: ${String(last)}`);
}

/** A port of the loopback that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A directory that the test removes. */
export function scratch(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), "sessapi-console-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

export class Process {
  output = "";
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;

  constructor(t: TestContext, command: string, args: string[]) {
    this.#child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      stream.on("data", (data) => (this.output += String(data)));
    }
    this.#ended = new Promise((resolve) => {
      this.#child.once("error", (error) => {
        this.output += String(error);
        resolve();
      });
      this.#child.once("exit", () => resolve());
    });
    t.after(() => this.stop());
  }

  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    this.#child.kill(signal);
    await this.#ended;
  }

  /** Waits until the process has printed what the pattern matches. */
  async printed(pattern: RegExp): Promise<RegExpExecArray> {
    return eventually(`${pattern} in the output`, () => {
      const match = pattern.exec(this.output);
      assert(match, this.output);
      return match;
    });
  }
}

export interface Service {
  process: Process;
  port: number;
  origin: string;
  /** Of the listener for operations, if there is one. */
  ops: string | undefined;
  /** Sends a request to the main listener. */
  send(method: string, path: string, body?: string | object, token?: string): Promise<Response>;
}

/** Runs `sessapi serve`. */
export async function serve(t: TestContext, args: string[] = [], port?: number): Promise<Service> {
  const tls = args.some((arg) => arg.startsWith("--tls-cert"));
  port ??= await freePort();
  const process_ = new Process(t, process.env["SESSAPI"]!, ["serve", `--listen=127.0.0.1:${port}`, "--log-format=json", ...args]);
  await process_.printed(/"msg":"serving"/);
  const ops = /"name":"operations","address":"([^"]+)"/.exec(process_.output)?.[1];
  const origin = `${tls ? "https" : "http"}://127.0.0.1:${port}`;
  return {
    process: process_,
    port,
    origin,
    ops: ops && `http://${ops}`,
    async send(method, path, body, token) {
      const headers: Record<string, string> = token === undefined ? {} : { Authorization: `Bearer ${token}` };
      if (body !== undefined) {
        headers["Content-Type"] = typeof body === "string" ? "application/octet-stream" : "application/json";
      }
      const response = await fetch(origin + path, {
        method,
        headers,
        ...(body !== undefined && { body: typeof body === "string" ? body : JSON.stringify(body) }),
      });
      assert(response.ok, `${method} ${path}: ${response.status}`);
      return response;
    },
  };
}

let browser: Browser | undefined;

export async function closeBrowser(): Promise<void> {
  await browser?.close();
}

/**
 * Opens a page that may ask nothing of anybody but the service, and that must break neither its
 * policy nor the rules of JavaScript. The test fails at its end if it did.
 */
export async function open(t: TestContext, url: string, options: BrowserContextOptions = {}): Promise<Page> {
  browser ??= await chromium.launch({
    executablePath: process.env["CHROMIUM"]!,
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
  });
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, reducedMotion: "reduce", ...options });
  context.setDefaultTimeout(patience);
  const page = await context.newPage();
  const faults: string[] = [];
  const { origin } = new URL(url);
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== origin) {
      faults.push(`a request to ${request.url()}`);
    }
  });
  page.on("pageerror", (error) => faults.push(`an uncaught ${error}`));
  page.on("console", (message) => {
    // The browser itself reports every 4xx and every lost connection.
    if (["error", "warning"].includes(message.type()) && !/^Failed to load resource/.test(message.text())) {
      faults.push(`the message ${message.text()}`);
    }
  });
  t.after(async () => {
    await context.close();
    assert.deepEqual(faults, []);
  });
  await page.goto(url);
  return page;
}

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Fails on anything that axe finds, in both colour schemes. */
export async function accessible(page: Page): Promise<void> {
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme });
    await page.evaluate(axeSource);
    const violations = await page.evaluate(async () => {
      const { axe } = globalThis as unknown as { axe: { run(): Promise<import("axe-core").AxeResults> } };
      return (await axe.run()).violations.map((v) => `${v.id}: ${v.nodes.map((n) => `${n.target} ${n.failureSummary}`).join("; ")}`);
    });
    assert.deepEqual(violations, [], colorScheme);
  }
}

/** Fails if the page is wider than its window. */
export async function fits(page: Page): Promise<void> {
  for (const width of [360, 768, 1280, 2560]) {
    await page.setViewportSize({ width, height: 900 });
    await eventually(`the page fits into ${width} pixels`, async () => {
      assert(await page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth));
    });
  }
}

/** Waits until the element of the selector has the text. */
export async function shows(page: Page, selector: string, text: string | RegExp): Promise<void> {
  await page.locator(selector).filter({ hasText: text }).first().waitFor();
}
