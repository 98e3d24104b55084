import { useState } from "preact/hooks";
import { Client } from "./api.ts";

/** Asks for a token. It goes to the service only, and is kept in memory only. */
export function Login({ reason, start }: { reason: string; start: (client: Client) => Promise<string | undefined> }) {
  const [error, setError] = useState(reason);
  const [busy, setBusy] = useState(false);

  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    const token = String(new FormData(form).get("token")).trim();
    if (!/^[!-~]+$/.test(token)) {
      setError("A token is sessapi_ followed by 52 letters or digits.");
      return;
    }
    setBusy(true);
    setError("");
    const refused = await start(new Client(token));
    if (refused !== undefined) {
      form.reset();
      setError(refused);
      setBusy(false);
    }
  };

  const retry = async () => {
    setBusy(true);
    setError((await start(new Client())) || "The service asks for a token.");
    setBusy(false);
  };

  return (
    <main class="login">
      <h1>
        sessapi <span class="muted">{location.host}</span>
      </h1>
      <div role="alert">{error !== "" && <p class="notice critical">{error}</p>}</div>
      <form onSubmit={submit}>
        <label for="token">Token</label>
        <input id="token" name="token" type="password" autocomplete="off" spellcheck={false} required autofocus aria-describedby="token-help" />
        <p id="token-help" class="muted">
          It needs the role <code>observe</code>; the roles <code>key-publish</code>, <code>session-write</code> and <code>admin</code> permit
          actions. The page keeps it in memory only: reloading or closing the page forgets it.
        </p>
        <div class="row">
          <button type="submit" class="primary" disabled={busy}>
            {busy ? "Logging in…" : "Log in"}
          </button>
          <button type="button" disabled={busy} onClick={retry}>
            Try without a token
          </button>
        </div>
      </form>
      <p class="muted">With a client certificate that the policy knows, no token is needed.</p>
    </main>
  );
}
