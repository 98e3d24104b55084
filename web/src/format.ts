const figure = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A count: 12,345. */
export const count = (n: number) => figure.format(n);

/** A count that fits a tile: 12,345 or 1.23 M. */
export function short(n: number): string {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e5]] as const) {
    if (n >= size) {
      const scale = unit === "k" ? 1e3 : size;
      return `${(n / scale).toPrecision(3)} ${unit}`;
    }
  }
  return count(n);
}

/** A rate per second: 0, 0.4, 12 or 3,400. */
export function rate(n: number): string {
  return n > 0 && n < 10 ? n.toFixed(1) : short(Math.round(n));
}

/** A share: 93.1 %. It says 100 % and 0 % only of all and none. */
export function percent(share: number): string {
  const text = (100 * share).toFixed(1);
  if (share < 1 && text === "100.0") {
    return "> 99.9 %";
  }
  if (share > 0 && text === "0.0") {
    return "< 0.1 %";
  }
  return `${text.replace(/^(0|100)\.0$/, "$1")} %`;
}

/** A size: 512 B, 1.5 MiB. */
export function bytes(n: number): string {
  let unit = "B";
  for (const next of ["KiB", "MiB", "GiB", "TiB"]) {
    if (n < 1024) {
      break;
    }
    n /= 1024;
    unit = next;
  }
  return `${unit === "B" ? n : n.toPrecision(n >= 1000 ? 4 : 3)} ${unit}`;
}

/** A duration in its two largest units: 42 s, 3 min 5 s, 11 h 52 min, 6 d 2 h. */
export function duration(milliseconds: number): string {
  const s = Math.max(0, Math.round(milliseconds / 1000));
  const two = (large: number, largeUnit: string, small: number, smallUnit: string) =>
    small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`;
  if (s < 60) {
    return `${s} s`;
  }
  if (s < 3600) {
    return two(Math.floor(s / 60), "min", s % 60, "s");
  }
  if (s < 86_400) {
    return two(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  }
  return two(Math.floor(s / 86_400), "d", Math.floor((s % 86_400) / 3600), "h");
}

const pad = (n: number) => String(n).padStart(2, "0");

/** The time of day of the reader: 14:03:09. */
export function clock(time: number): string {
  const d = new Date(time);
  return `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;
}

/** The date and time of the reader: 2026-11-30 14:03. */
export function moment(time: number): string {
  const d = new Date(time);
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())} ${pad(d.getHours())}:${pad(d.getMinutes())}`;
}

/** The first names of a list: a, b and 3 more. */
export function names(list: string[], most = 3): string {
  return list.length <= most ? list.join(", ") : `${list.slice(0, most).join(", ")} and ${count(list.length - most)} more`;
}

/** A number of things: 1 key, 2 keys. */
export const plural = (n: number, one: string, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
