import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import type { Status } from "./api.ts";
import { bytes, clock, count, duration, percent, rate, short } from "./format.ts";
import { type Counter, latest, rates, type Sample, total } from "./history.ts";

function Tile({ label, value, unit, note }: { label: string; value: string; unit?: string; note: string }) {
  return (
    <div class="tile">
      <dt>{label}</dt>
      <dd>
        <span class="value">
          {value}
          {unit && <small> {unit}</small>}
        </span>
        <span class="note">{note}</span>
      </dd>
    </div>
  );
}

/** The figures of the session cache. */
export function Figures({ status: { cache, fleet }, history }: { status: Status; history: Sample[] }) {
  if (!cache.enabled) {
    return (
      <section aria-labelledby="sessions-heading">
        <h2 id="sessions-heading">Sessions</h2>
        <p class="empty">This node runs with --cache=off and keeps no sessions. Clients resume with tickets only.</p>
      </section>
    );
  }
  const sum = total(history);
  const lookups = sum ? sum.hits + sum.misses : 0;
  const span = sum ? `last ${duration(Math.round(sum.milliseconds / 60_000) * 60_000 || sum.milliseconds)}` : "measuring";
  const { entries = 0, bytes: used = 0, capacity_bytes: capacity = 0, max_sessions } = cache;
  return (
    <section aria-labelledby="sessions-heading">
      <h2 id="sessions-heading">
        Session lookups {fleet && <span class="muted">of this node, in its cache and in Redis</span>}
      </h2>
      <dl class="tiles">
        <Tile
          label="Hit ratio"
          value={sum && lookups > 0 ? percent(sum.hits / lookups) : "–"}
          note={sum && lookups === 0 ? `no lookups, ${span}` : span}
        />
        <Tile label="Hits" value={rate(latest(history, "hits"))} unit="/s" note={sum ? `${count(sum.hits)}, ${span}` : span} />
        <Tile label="Misses" value={rate(latest(history, "misses"))} unit="/s" note={sum ? `${count(sum.misses)}, ${span}` : span} />
        <Tile label="Evictions" value={rate(latest(history, "evicted"))} unit="/s" note={sum ? `${count(sum.evicted)}, ${span}` : span} />
        <Tile label="Sessions" value={short(entries)} note={max_sessions === undefined ? "kept now" : `of ${count(max_sessions)} at most`} />
        <div class="tile">
          <dt>Memory</dt>
          <dd>
            <span class="value">{bytes(used)}</span>
            <span class="note">
              {percent(capacity > 0 ? used / capacity : 0)} of {bytes(capacity)}
            </span>
            <meter aria-label="Memory in use" min={0} max={capacity} value={used} />
          </dd>
        </div>
      </dl>
    </section>
  );
}

interface Line {
  counter: Counter;
  label: string;
  color: string;
}

const lookupLines: Line[] = [
  { counter: "hits", label: "Hits", color: "--blue" },
  { counter: "misses", label: "Misses", color: "--orange" },
];
const sessionLines: Line[] = [
  { counter: "stored", label: "Stored", color: "--blue" },
  { counter: "expired", label: "Expired", color: "--grey" },
  { counter: "evicted", label: "Evicted", color: "--orange" },
];

export function Plots({ history }: { history: Sample[] }) {
  return (
    <div class="plots">
      <Plot title="Lookups per second" lines={lookupLines} history={history} />
      <Plot title="Sessions per second" lines={sessionLines} history={history} />
    </div>
  );
}

/** Reads the theme, and again when it changes. */
function useDark(): boolean {
  const [query] = useState(() => matchMedia("(prefers-color-scheme: dark)"));
  const [dark, setDark] = useState(query.matches);
  useEffect(() => {
    const set = () => setDark(query.matches);
    query.addEventListener("change", set);
    return () => query.removeEventListener("change", set);
  }, []);
  return dark;
}

function Plot({ title, lines, history }: { title: string; lines: Line[]; history: Sample[] }) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(undefined);
  const dark = useDark();

  useEffect(() => {
    const element = box.current!;
    const root = getComputedStyle(document.documentElement);
    const css = (name: string) => root.getPropertyValue(name).trim();
    const axis = {
      stroke: css("--muted"),
      font: `${Math.round(parseFloat(root.fontSize) * 0.8)}px ${css("--font")}`,
      grid: { stroke: css("--line"), width: 1 },
      ticks: { show: false },
    };
    const size = () => ({ width: element.clientWidth, height: element.clientHeight });
    plot.current = new uPlot(
      {
        ...size(),
        legend: { show: false },
        cursor: { show: false },
        padding: [8, 28, 0, 0], // half of the last time
        scales: {
          // At least a minute, or times repeat on the axis.
          x: { range: (_u, min, max) => [max === null ? null : Math.min(min, max - 60), max] },
          y: { range: (_u, _min, max) => [0, Math.max(1, (max ?? 0) * 1.1)] },
        },
        axes: [
          { ...axis, size: 28, space: 90, values: (_u, ticks) => ticks.map((t) => clock(1000 * t)) },
          { ...axis, size: 56, space: 28, values: (_u, ticks) => ticks.map((t) => (t >= 10 || t % 1 === 0 ? short(t) : String(Number(t.toFixed(2))))) },
        ],
        series: [
          {},
          ...lines.map((l) => ({ label: l.label, stroke: css(l.color), width: 2, points: { show: false }, spanGaps: false })),
        ],
      },
      [[], ...lines.map(() => [])],
      element,
    );
    const observer = new ResizeObserver(() => plot.current?.setSize(size()));
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.current?.destroy();
    };
  }, [dark]);

  useEffect(() => {
    plot.current?.setData([history.map((s) => s.at / 1000), ...lines.map((l) => rates(history, l.counter))] as uPlot.AlignedData);
  }, [history, dark]);

  const now = lines.map((l) => `${l.label} ${rate(latest(history, l.counter))}`).join(", ");
  return (
    <figure class="panel">
      <figcaption>
        <h3>{title}</h3>
        <ul class="legend">
          {lines.map((l) => (
            <li key={l.counter}>
              <span class={`swatch ${l.color.slice(2)}`} aria-hidden="true" />
              {l.label} <b>{rate(latest(history, l.counter))}</b>
            </li>
          ))}
        </ul>
      </figcaption>
      <div class="plot" ref={box} role="img" aria-label={`${title}, while this page is open. Now: ${now}.`} />
    </figure>
  );
}
