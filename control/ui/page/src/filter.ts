// The text of the filter: options of `podgate observe`, or a shorter form of them.

/** Options with a value, in the order in which they are suggested. */
export const OPTIONS = [
  "namespace",
  "pod",
  "verdict",
  "protocol",
  "port",
  "type",
  "from-namespace",
  "to-namespace",
  "from-pod",
  "to-pod",
  "to-port",
  "from-port",
  "service",
  "to-service",
  "from-service",
  "workload",
  "from-workload",
  "to-workload",
  "label",
  "from-label",
  "to-label",
  "ip",
  "from-ip",
  "to-ip",
  "fqdn",
  "to-fqdn",
  "from-fqdn",
  "identity",
  "from-identity",
  "to-identity",
  "drop-reason-desc",
  "traffic-direction",
  "http-method",
  "http-path",
  "http-status",
  "http-url",
  "http-header",
  "tcp-flags",
  "node-name",
  "ip-version",
  "uuid",
];

const VERDICTS = ["FORWARDED", "DROPPED", "REDIRECTED", "AUDIT", "ERROR", "TRACED", "TRANSLATED"];
const PROTOCOLS = ["tcp", "udp", "sctp", "icmp", "icmpv4", "icmpv6", "http", "dns", "kafka"];

/** Values that are suggested. */
export const VALUES: Record<string, string[]> = {
  verdict: VERDICTS,
  protocol: PROTOCOLS,
  type: ["drop", "trace", "policy-verdict", "l7"],
  "traffic-direction": ["ingress", "egress"],
  "ip-version": ["v4", "v6"],
  "http-method": ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"],
};

/** Cuts a text at spaces, except those between quotes. */
export function words(text: string): string[] {
  const found: string[] = [];
  let word = "";
  let inWord = false;
  let quote = "";
  for (const char of text) {
    if (quote) {
      if (char === quote) quote = "";
      else word += char;
    } else if (char === '"' || char === "'") {
      quote = char;
      inWord = true;
    } else if (/\s/.test(char)) {
      if (inWord) found.push(word);
      word = "";
      inWord = false;
    } else {
      word += char;
      inWord = true;
    }
  }
  if (inWord) found.push(word);
  return found;
}

/** The options of a word in the short form. */
function short(word: string): string[] {
  const equals = word.indexOf("=");
  if (equals > 0) return [`--${word}`];
  const upper = word.toUpperCase();
  if (VERDICTS.includes(upper)) return [`--verdict=${upper}`];
  if (PROTOCOLS.includes(word.toLowerCase())) return [`--protocol=${word.toLowerCase()}`];
  if (/^\d+$/.test(word)) return [`--port=${word}`];
  if (/^[\da-f:.]+(\/\d+)?$/i.test(word) && /[:.]/.test(word)) return [`--ip=${word}`];
  if (word.includes("/")) return [`--pod=${word}`];
  return [`--namespace=${word}`];
}

/** The options that a text is short for. */
export function options(text: string): string[] {
  const list = words(text);
  const found: string[] = [];
  for (let i = 0; i < list.length; i++) {
    const word = list[i]!;
    if (word.startsWith("-")) {
      found.push(word);
      // An option and its value in two words.
      const next = list[i + 1];
      const needsValue = word !== "--not" && !word.includes("=") && !FLAGS.includes(word);
      if (needsValue && next !== undefined) {
        found.push(next);
        i++;
      }
    } else if (word.startsWith("!") && word.length > 1) {
      found.push("--not", ...short(word.slice(1)));
    } else {
      found.push(...short(word));
    }
  }
  return found;
}

const FLAGS = [
  "-A",
  "-4",
  "-6",
  "--ipv4",
  "--ipv6",
  "--all-namespaces",
  "--from-all-namespaces",
  "--to-all-namespaces",
];

/** A word for a value, with quotes if it needs them. */
export function quoted(value: string): string {
  return /[\s"']/.test(value) ? `"${value.replaceAll('"', "")}"` : value;
}

/** The text with one option set to a value, or without it for an empty value. */
export function withOption(text: string, name: string, value: string): string {
  const isOther = (word: string) =>
    !word.startsWith(`${name}=`) &&
    short(word)[0] !== `--${name}=${word}` &&
    !short(word)[0]!.startsWith(`--${name}=`);
  const kept = words(text).filter(
    (word) => word.startsWith("-") || word.startsWith("!") || isOther(word),
  );
  const added = value ? [`${name}=${value}`] : [];
  return [...kept, ...added].map(quoted).join(" ");
}

/** The value of an option in the short form, if it is given just once. */
export function optionOf(text: string, name: string): string {
  const begin = `--${name}=`;
  const values = words(text)
    .filter((word) => !word.startsWith("-") && !word.startsWith("!"))
    .flatMap(short)
    .filter((option) => option.startsWith(begin));
  return values.length === 1 ? values[0]!.slice(begin.length) : "";
}

/** What may be typed in place of the last word. */
export function suggestions(text: string): string[] {
  const last = /\S*$/.exec(text)![0];
  const bang = last.startsWith("!") ? "!" : "";
  const word = last.slice(bang.length);
  if (!word || word.startsWith("-")) return [];
  const equals = word.indexOf("=");
  if (equals < 0) {
    const names = OPTIONS.filter((name) => name.startsWith(word));
    const inside = OPTIONS.filter((name) => !name.startsWith(word) && name.includes(word));
    return [...names, ...inside].slice(0, 8).map((name) => `${bang}${name}=`);
  }
  const name = word.slice(0, equals);
  const begin = word.slice(equals + 1).toLowerCase();
  const values = VALUES[name.replace(/^(from|to)-/, "")] ?? [];
  return values
    .filter((value) => value.toLowerCase().startsWith(begin) && value.toLowerCase() !== begin)
    .slice(0, 8)
    .map((value) => `${bang}${name}=${value}`);
}
