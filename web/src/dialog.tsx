import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Problem } from "./api.ts";

/** A button, or the reason why there is none. */
export function Action({ label, why, danger, onClick }: { label: string; why: string | undefined; danger?: boolean; onClick: () => void }) {
  if (why !== undefined) {
    return <p class="muted why">{`${label}: ${why.charAt(0).toLowerCase()}${why.slice(1)}`}</p>;
  }
  return (
    <button type="button" class={danger ? "danger" : ""} onClick={onClick}>
      {label}
    </button>
  );
}

/**
 * Says what will happen, and does it when the reader confirms. With word, the reader must type
 * that first.
 */
export function Confirm({
  title,
  verb,
  danger = true,
  word,
  children,
  act,
  close,
}: {
  title: string;
  verb: string;
  danger?: boolean;
  word?: string;
  children: ComponentChildren;
  act: () => Promise<void>;
  close: () => void;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [typed, setTyped] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState("");

  useEffect(() => {
    dialog.current!.showModal();
  }, []);

  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    if (busy || (word !== undefined && typed !== word)) {
      return;
    }
    setBusy(true);
    setError("");
    try {
      await act();
      dialog.current?.close();
    } catch (error) {
      setError(explain(error));
      setBusy(false);
    }
  };

  return (
    <dialog ref={dialog} aria-labelledby="dialog-title" onClose={close}>
      <form onSubmit={submit}>
        <h2 id="dialog-title">{title}</h2>
        {children}
        {word !== undefined && (
          <label class="typed">
            <span>
              Type <code>{word}</code> to confirm
            </span>
            <input
              name="word"
              autocomplete="off"
              autocapitalize="off"
              spellcheck={false}
              value={typed}
              onInput={(e) => setTyped(e.currentTarget.value.trim())}
            />
          </label>
        )}
        <div role="alert">{error !== "" && <p class="notice critical">{error}</p>}</div>
        <div class="row">
          <button type="submit" class={danger ? "danger" : "primary"} disabled={busy || (word !== undefined && typed !== word)}>
            {verb}
          </button>
          <button type="button" onClick={() => dialog.current!.close()}>
            Cancel
          </button>
        </div>
      </form>
    </dialog>
  );
}

/** What an error means to the reader. */
export function explain(error: unknown): string {
  if (!(error instanceof Problem)) {
    return "The service did not answer. Check whether it made the change before you try again.";
  }
  return error.code === "precondition_failed"
    ? "The ticket keys have changed since you opened this. Nothing was done. Cancel, check the keys, and try again."
    : error.message;
}
