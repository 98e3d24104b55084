import { useEffect, useState } from "preact/hooks";
import { Client, Problem, type Status } from "./api.ts";
import { Console } from "./console.tsx";
import { Login } from "./login.tsx";

type Phase =
  | { name: "starting" }
  | { name: "login"; reason: string }
  | { name: "console"; client: Client; status: Status; acts: boolean };

/** Why the service refuses the identity; undefined if the error is another one. */
export function refusal(error: unknown, hasToken: boolean): string | undefined {
  if (!(error instanceof Problem)) {
    return undefined;
  }
  switch (error.status) {
    case 401:
      return hasToken ? "The service does not accept this token. It may have expired, or the policy no longer has it." : "";
    case 403:
      return `${error.message} The console needs an identity with the role observe.`;
  }
  return undefined;
}

/** Chooses between the log-in and the console. Whoever leaves the console leaves its data with it. */
export function App() {
  const [phase, setPhase] = useState<Phase>({ name: "starting" });

  const start = async (client: Client): Promise<string | undefined> => {
    try {
      const status = await client.status();
      setPhase({ name: "console", client, status, acts: await client.canAct() });
      return undefined;
    } catch (error) {
      return refusal(error, client.hasToken) ?? (error instanceof Problem ? error.message : "The service does not answer.");
    }
  };

  // Without a policy, or with the browser's certificate, nobody has to log in.
  useEffect(() => {
    void start(new Client()).then((reason) => {
      if (reason !== undefined) {
        setPhase({ name: "login", reason });
      }
    });
  }, []);

  switch (phase.name) {
    case "starting":
      return (
        <main class="login">
          <p role="status">Connecting…</p>
        </main>
      );
    case "login":
      return <Login reason={phase.reason} start={start} />;
    case "console":
      return (
        <Console
          client={phase.client}
          first={phase.status}
          acts={phase.acts}
          leave={(reason) => setPhase({ name: "login", reason })}
        />
      );
  }
}
