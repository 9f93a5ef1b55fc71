// Tests of what needs no browser.
import assert from "node:assert/strict";
import test from "node:test";
import { build } from "esbuild";

/** A module of the page. */
async function load(name) {
  const { outputFiles } = await build({
    entryPoints: [`src/${name}.ts`],
    bundle: true,
    format: "esm",
    write: false,
  });
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);
}

const { options, optionOf, suggestions, withOption, words } = await load("filter");
const { FLOWS_MAX, NODES_MAX, Ring, Store } = await load("store");

test("the short form of a filter stands for options of podgate observe", () => {
  assert.deepEqual(options("pod=shop/cart !port=53"), ["--pod=shop/cart", "--not", "--port=53"]);
  assert.deepEqual(options("dropped http 443 10.0.0.0/8 fd00::1 shop shop/cart"), [
    "--verdict=DROPPED", "--protocol=http", "--port=443", "--ip=10.0.0.0/8", "--ip=fd00::1",
    "--namespace=shop", "--pod=shop/cart",
  ]);
  assert.deepEqual(options("--not --http-path ^/a -4 udp --verdict=DROPPED"), [
    "--not", "--http-path", "^/a", "-4", "--protocol=udp", "--verdict=DROPPED",
  ]);
  assert.deepEqual(options(`label="a in (b, c)"`), ["--label=a in (b, c)"]);
  assert.deepEqual(options("  "), []);
});

test("an option is set, replaced and removed in the text", () => {
  const text = withOption("shop !port=53", "verdict", "DROPPED");
  assert.equal(text, "shop !port=53 verdict=DROPPED");
  assert.equal(withOption(text, "verdict", "FORWARDED"), "shop !port=53 verdict=FORWARDED");
  assert.equal(withOption("dropped shop", "verdict", ""), "shop");
  assert.equal(withOption("shop 80", "namespace", "data"), "80 namespace=data");
  assert.equal(optionOf(text, "verdict"), "DROPPED");
  assert.equal(optionOf("shop", "namespace"), "shop");
  assert.equal(optionOf("shop data", "namespace"), "");
  assert.equal(withOption("", "label", "a b"), `"label=a b"`);
  assert.deepEqual(words(withOption("", "label", "a b")), ["label=a b"]);
});

test("names and values are suggested", () => {
  assert.equal(suggestions("http-m")[0], "http-method=");
  assert.deepEqual(suggestions("shop verdict=d"), ["verdict=DROPPED"]);
  assert.deepEqual(suggestions("!protocol=ht"), ["!protocol=http"]);
  assert.deepEqual(suggestions("--http"), []);
});

test("a ring has the newest at 0", () => {
  const ring = new Ring(3);
  for (const value of [1, 2, 3, 4, 5]) ring.push(value);
  assert.deepEqual(ring.all(), [5, 4, 3]);
  assert.equal(ring.at(3), undefined);
});

test("what the store has is bounded", () => {
  globalThis.window = { setTimeout: () => 1 };
  const store = new Store();
  const flow = (index) => ({
    time: Date.now(), verdict: index % 2 ? "DROPPED" : "FORWARDED", protocol: "TCP", port: `${index % 100}/TCP`,
    source: { namespace: "a", pod: `p-${index}` }, destination: { namespace: "b", pod: `q-${index % 7}` },
  });
  for (let batch = 0; batch < 30; batch++) {
    const flows = Array.from({ length: 1000 }, (_, index) => flow(batch * 1000 + index));
    store.add({ flows, skipped: 5, lost: 1 });
  }
  assert.equal(store.flows.length, FLOWS_MAX);
  assert.equal(store.nodes.size, NODES_MAX);
  assert.ok(store.edgesLeftOut > 20_000);
  assert.deepEqual([store.seen, store.skipped, store.lost], [30_000, 150, 30]);
  assert.ok([...store.edges.values()].every((edge) => edge.ports.size <= 20));
});

test("a reply is an edge from the end that called", () => {
  const store = new Store();
  const [a, b] = [{ namespace: "x", pod: "a-1", workload: "a" }, { ip: "1.1.1.1", reserved: "world" }];
  const flow = (source, destination, reply) => ({ time: 0, verdict: "FORWARDED", port: "53/UDP", source, destination, reply });
  store.add({ flows: [flow(a, b, false), flow(b, a, true)], skipped: 0, lost: 0 });
  const [edge, ...others] = store.edges.values();
  assert.deepEqual([edge.from, edge.to, edge.flows, others.length], ["x/a", ":world", 2, 0]);
});
