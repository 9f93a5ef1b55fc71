// The page: views, the filter, keys and the theme.

import "./app.css";
import { render } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Status } from "./types";
import { SECONDS, store } from "./store";
import { type Asked, useAnswer } from "./api";
import { options, optionOf, quoted, suggestions, withOption } from "./filter";
import { type Focus, FlowTable, Footer, type Pause, pauseNow } from "./table";
import { Detail } from "./detail";
import { ServiceMap } from "./map";
import { Policies } from "./policies";
import { Health, problemsOf } from "./health";
import { brief, useStore } from "./parts";

const VIEWS = ["flows", "map", "policies", "health"] as const;
type View = (typeof VIEWS)[number];

const THEMES = ["system", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

/** The view and what is chosen in it, by the part of the URL after `#`. */
function place(): { view: View; chosen: string[] } {
  const [view, ...chosen] = location.hash.slice(1).split("/").map(decodeURIComponent);
  return { view: VIEWS.find((known) => known === view) ?? "flows", chosen };
}

function App() {
  const [{ view, chosen }, setPlace] = useState(place);
  const [filter, setFilter] = useState("");
  const [pause, setPause] = useState<Pause | null>(null);
  const [focus, setFocus] = useState<Focus>({ selected: null, open: false });
  const [theme, setTheme] = useState<Theme>(storedTheme);
  const [help, setHelp] = useState(false);
  const status = useAnswer<Status>("status", {}, 5000);
  const input = useRef<HTMLInputElement>(null);

  useEffect(() => {
    const changed = () => setPlace(place());
    window.addEventListener("hashchange", changed);
    return () => window.removeEventListener("hashchange", changed);
  }, []);
  useEffect(() => {
    store.follow(filter);
    setPause(null);
    setFocus({ selected: null, open: false });
  }, [filter]);
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // Without storage, the choice lasts as long as the page.
    }
  }, [theme]);

  const go = (next: View) => {
    location.hash = next;
  };
  const nextTheme = () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]!);
  const toggle = () => {
    setPause(pause ? null : pauseNow());
    setFocus({ selected: null, open: false });
  };
  const escape = () => {
    if (help) setHelp(false);
    else if (focus.open) setFocus({ ...focus, open: false });
    else if (pause) toggle();
  };
  // Before the next key: an effect after painting would let two quick keys meet the same state.
  useLayoutEffect(() => {
    const keyed = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.key === "Escape" && target.tagName !== "INPUT") return escape();
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (/^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return;
      const actions: Record<string, () => void> = {
        "/": () => input.current?.focus(),
        "?": () => setHelp(!help),
        t: nextTheme,
        p: () => view === "flows" && toggle(),
      };
      VIEWS.forEach((name, index) => (actions[String(index + 1)] = () => go(name)));
      const action = actions[event.key];
      if (!action) return;
      event.preventDefault();
      action();
    };
    window.addEventListener("keydown", keyed);
    return () => window.removeEventListener("keydown", keyed);
  });

  const add = (terms: [string, string][]) => {
    setFilter(terms.reduce((text, [name, value]) => withOption(text, name, value), filter));
  };
  const filtered = view === "flows" || view === "map";
  return (
    <>
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          document
            .querySelector<HTMLElement>("#main [tabindex='0'], #main a, #main button")
            ?.focus();
        }}
      >
        Skip to the content
      </a>
      <Top
        view={view}
        status={status}
        theme={theme}
        nextTheme={nextTheme}
        showHelp={() => setHelp(true)}
      />
      {filtered && <FilterBar filter={filter} setFilter={setFilter} input={input} />}
      <main id="main" class={view}>
        {view === "flows" && (
          <>
            <div class="columns">
              <FlowTable pause={pause} setPause={setPause} focus={focus} setFocus={setFocus} />
              {focus.open && focus.selected && (
                <Detail
                  flow={focus.selected}
                  close={() => {
                    setFocus({ ...focus, open: false });
                    document.querySelector<HTMLElement>("[role=grid]")?.focus();
                  }}
                  addFilter={(name, value) => add([[name, value]])}
                />
              )}
            </div>
            <Footer pause={pause} resume={toggle} />
          </>
        )}
        {view === "map" && (
          <ServiceMap
            namespace={optionOf(filter, "namespace")}
            showFlows={(terms) => {
              // Either end is said twice: by the filter of the connection.
              setFilter(terms.reduce((text, [name, value]) => withOption(text, name, value), ""));
              go("flows");
            }}
          />
        )}
        {view === "policies" && <Policies chosen={chosen} />}
        {view === "health" && <Health status={status} />}
      </main>
      {help && <Help close={() => setHelp(false)} />}
    </>
  );
}

function storedTheme(): Theme {
  try {
    return THEMES.find((theme) => theme === localStorage.getItem("theme")) ?? "system";
  } catch {
    return "system";
  }
}

function Top({
  view,
  status,
  theme,
  nextTheme,
  showHelp,
}: {
  view: View;
  status: Asked<Status>;
  theme: Theme;
  nextTheme: () => void;
  showHelp: () => void;
}) {
  useStore();
  const problems = status.value ? problemsOf(status.value).length : 0;
  const node = store.flows.at(0)?.node;
  return (
    <header class="top">
      <h1>
        <img src="/icon.svg" alt="" width="20" height="20" /> podgate
        {node && <span class="node">{node}</span>}
      </h1>
      <nav aria-label="Views">
        {VIEWS.map((name, index) => (
          <a
            key={name}
            href={`#${name}`}
            aria-current={view === name ? "page" : undefined}
            aria-keyshortcuts={String(index + 1)}
            title={`${index + 1}`}
          >
            {name[0]!.toUpperCase() + name.slice(1)}
            {name === "health" && (status.error || problems > 0) && (
              <span
                class="badge"
                aria-label={status.error ? "the agent can't be asked" : `${problems} problems`}
              >
                {status.error ? "!" : problems}
              </span>
            )}
          </a>
        ))}
      </nav>
      <Chart />
      <Connected />
      <button
        class="icon"
        onClick={nextTheme}
        aria-label={`Theme: ${theme}. Change it`}
        title={`Theme: ${theme} (t)`}
        id="theme"
      >
        {theme === "system" ? "◐" : theme === "light" ? "☀" : "☾"}
      </button>
      <button
        class="icon"
        onClick={showHelp}
        aria-label="Keys and filters"
        title="Keys and filters (?)"
      >
        ?
      </button>
    </header>
  );
}

function Connected() {
  const { connection } = store;
  const text = {
    connecting: "connecting",
    live: "live",
    problem: "disconnected",
    rejected: "filter not valid",
  };
  const title = "reason" in connection ? connection.reason : "Flows come from Hubble's API";
  return (
    <span
      class={`connection-state ${connection.state}`}
      role="status"
      title={title}
      id="connection"
    >
      <i aria-hidden="true" />
      {text[connection.state]}
    </span>
  );
}

/** Flows and denied flows of the last minute. */
function Chart() {
  useStore();
  const { flows, denied } = store.rates();
  const now = Math.floor(store.now() / 1000);
  const [width, height] = [120, 26];
  const most = Math.max(1, ...store.chart.map((entry) => entry.flows));
  const bar = width / SECONDS;
  const bars = (value: (entry: (typeof store.chart)[number]) => number) =>
    store.chart
      .filter((entry) => now - entry.second < SECONDS)
      .map((entry) => {
        const tall = Math.max(value(entry) > 0 ? 1 : 0, (value(entry) / most) * height);
        const x = width - (now - entry.second + 1) * bar;
        const [left, up, wide] = [x, tall, bar - 0.5].map((value) => value.toFixed(1));
        return `M${left},${height} v-${up} h${wide} v${up} z`;
      })
      .join("");
  return (
    <div class="chart" title="Flows of the last minute; denied ones are red">
      <svg width={width} height={height} aria-hidden="true">
        <path class="flows" d={bars((entry) => entry.flows)} />
        <path class="denied" d={bars((entry) => entry.denied)} />
      </svg>
      <span>
        <b>{brief(flows)}</b> flows/s
      </span>
      <span class={denied > 0 ? "bad" : "muted"}>
        <b>{brief(denied)}</b> denied/s
      </span>
    </div>
  );
}

const CHOICES: [string, string][] = [
  ["", "All"],
  ["DROPPED", "Denied"],
  ["FORWARDED", "Forwarded"],
];

function FilterBar({
  filter,
  setFilter,
  input,
}: {
  filter: string;
  setFilter: (filter: string) => void;
  input: preact.RefObject<HTMLInputElement | null>;
}) {
  useStore();
  const [text, setText] = useState(filter);
  const [focused, setFocused] = useState(false);
  const [marked, setMarked] = useState(-1);
  useEffect(() => setText(filter), [filter]);
  const list = focused ? suggestions(text) : [];
  const { connection } = store;
  const rejected = connection.state === "rejected" && text === filter;
  const complete = (word: string) => {
    const next = text.replace(/\S*$/, "") + word;
    setText(word.endsWith("=") ? next : `${next} `);
    setMarked(-1);
    input.current?.focus();
  };
  const keyed = (event: KeyboardEvent) => {
    const marker = list[marked];
    if (event.key === "ArrowDown" && list.length) setMarked((marked + 1) % list.length);
    else if (event.key === "ArrowUp" && list.length)
      setMarked(((marked + 1 + list.length) % (list.length + 1)) - 1);
    else if (event.key === "Tab" && marker) complete(marker);
    else if (event.key === "Enter") {
      if (marker) complete(marker);
      else {
        setFilter(text.trim());
        setFocused(false);
      }
    } else if (event.key === "Escape") {
      if (text) {
        setText("");
        setFilter("");
      } else {
        input.current?.blur();
        document.querySelector<HTMLElement>("[role=grid]")?.focus();
      }
    } else return;
    event.preventDefault();
  };
  const verdict = optionOf(filter, "verdict");
  const namespace = optionOf(filter, "namespace");
  const namespaces = [...new Set([...store.namespaces, namespace].filter(Boolean))].sort();
  return (
    <div class="filterbar" role="search">
      <div class="field">
        <input
          ref={input}
          type="text"
          role="combobox"
          aria-label="Filter of flows"
          aria-expanded={list.length > 0}
          aria-controls="suggestions"
          aria-activedescendant={marked >= 0 ? `suggestion-${marked}` : undefined}
          aria-invalid={rejected}
          aria-describedby="filter-state"
          autocomplete="off"
          autocapitalize="off"
          spellcheck={false}
          placeholder="Filter, as for podgate observe: pod=shop/cart verdict=DROPPED !port=53"
          value={text}
          onInput={(event) => {
            setText(event.currentTarget.value);
            setFocused(true);
            setMarked(-1);
          }}
          onFocus={() => setFocused(true)}
          onBlur={() => setFocused(false)}
          onKeyDown={keyed}
        />
        <kbd aria-hidden="true">{text.trim() === filter ? "/" : "Enter"}</kbd>
        {list.length > 0 && (
          <ul class="suggestions" role="listbox" id="suggestions" aria-label="Suggestions">
            {list.map((word, index) => (
              <li
                key={word}
                id={`suggestion-${index}`}
                role="option"
                aria-selected={index === marked}
                onMouseDown={(event) => {
                  event.preventDefault();
                  complete(word);
                }}
              >
                {word}
              </li>
            ))}
          </ul>
        )}
      </div>
      <div class="choices" role="group" aria-label="Verdict">
        {CHOICES.map(([value, title]) => (
          <button
            key={value}
            aria-pressed={verdict === value}
            onClick={() => setFilter(withOption(filter, "verdict", value))}
          >
            {title}
          </button>
        ))}
      </div>
      <select
        aria-label="Namespace"
        value={namespace}
        onChange={(event) => setFilter(withOption(filter, "namespace", event.currentTarget.value))}
      >
        <option value="">All namespaces</option>
        {namespaces.map((name) => (
          <option key={name} value={name}>
            {name}
          </option>
        ))}
      </select>
      <p id="filter-state" class="state" role="status">
        {rejected
          ? connection.reason
          : connection.state === "problem"
            ? connection.reason + (connection.ended ? "" : "; trying again")
            : ""}
      </p>
    </div>
  );
}

function Help({ close }: { close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  const keys: [string, string][] = [
    ["1 2 3 4", "flows, map, policies, health"],
    ["/", "filter; Enter applies it, Esc clears it"],
    ["↑ ↓ PgUp PgDn Home End", "select a flow"],
    ["Enter", "explain it"],
    ["p", "pause, and follow again"],
    ["t", "theme: system, light, dark"],
    ["Esc", "close, one after another"],
  ];
  const example = "pod=shop/cart !port=53";
  return (
    <dialog
      ref={dialog}
      onClose={close}
      aria-labelledby="help-title"
      onClick={(event) => event.target === dialog.current && close()}
    >
      <header>
        <h2 id="help-title">Keys and filters</h2>
        <button class="icon" onClick={close} aria-label="Close">
          ✕
        </button>
      </header>
      <dl class="help">
        {keys.map(([key, what]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <p>
        Filters are the options of <code>podgate observe</code>. <code>{example}</code> is short for{" "}
        <code>{options(example).map(quoted).join(" ")}</code>; both may be typed. A word alone is a
        namespace, pod (<code>shop/cart</code>), address, port, protocol or verdict. The same option
        twice matches either value.
      </p>
    </dialog>
  );
}

document.documentElement.dataset.theme = storedTheme();
render(<App />, document.body);
