// Scenarios of the page of `podgate ui`, in headless Chromium.
//
// usage: ui.mjs SCENARIO URL PACKAGES PROFILE SCREENSHOTS
//
// SCENARIO is `agent` or `flood`, PACKAGES the folder of npm's packages, PROFILE a new folder for
// Chromium, and SCREENSHOTS a folder for screenshots, or empty. Prints `step NAME` where the test
// has something to do. Each wait is for a condition.

import assert from "node:assert/strict";
import http from "node:http";
import { createRequire } from "node:module";

const [scenario, url, packages, profile, screenshots] = process.argv.slice(2);
const { chromium } = createRequire(`${packages}/`)("playwright-core");
const base = new URL(url).origin;

const step = (name) => console.log(`step ${name}`);

const browser = await chromium.launchPersistentContext(profile, {
  executablePath: "/usr/bin/chromium",
  headless: true,
  viewport: { width: 1440, height: 860 },
  colorScheme: "light",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
browser.setDefaultTimeout(30_000);
const page = browser.pages()[0] ?? (await browser.newPage());

/** Errors of the page, such as violations of its security policy. */
const errors = [];
const requests = [];
page.on("pageerror", (error) => errors.push(String(error)));
page.on("console", (message) => {
  if (message.type() === "error") errors.push(message.text());
});
page.on("request", (request) => requests.push(request.url()));

const shot = async (name) => {
  if (screenshots)
    await page.screenshot({ path: `${screenshots}/${name}.png` });
};
const rows = () => page.locator(".body .row");
const filter = page.getByRole("combobox", { name: "Filter of flows" });
const why = page.locator("#why");
const text = (locator) => locator.innerText();

/** Types a filter by keys alone. */
async function setFilter(value) {
  // Another view may still be shown, without a filter.
  await filter.waitFor();
  await page.keyboard.press("/");
  await page.keyboard.press("Control+A");
  await page.keyboard.press("Delete");
  await page.keyboard.type(value);
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
}

/** Waits until there are rows, and all of them match: those of the filter before are gone. */
async function allRowsMatch(pattern) {
  await page.waitForFunction((source) => {
    const texts = [...document.querySelectorAll(".body .row")].map(
      (row) => row.innerText,
    );
    return (
      texts.length > 0 && texts.every((text) => new RegExp(source).test(text))
    );
  }, pattern.source);
}

/** Waits until the text of the page's part matches. */
async function until(selector, pattern) {
  await page.waitForFunction(
    ([selector, source]) =>
      new RegExp(source).test(
        document.querySelector(selector)?.innerText ?? "",
      ),
    [selector, pattern.source],
  );
}

/** Waits until what `read` gives is that: the page draws after the event that changes it. */
async function becomes(read, expected, message) {
  const end = Date.now() + 30_000;
  while (true) {
    const actual = await read();
    if (actual === expected) return;
    if (Date.now() > end) assert.equal(actual, expected, message);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The status of a request that no browser has made. */
function status(path, options = {}) {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(base);
    const request = http.request(
      { hostname, port, path, ...options },
      (response) => {
        response.resume();
        resolve({ status: response.statusCode, headers: response.headers });
      },
    );
    request.on("error", reject);
    request.end();
  });
}

async function onlyThePageIsAnswered() {
  assert.equal((await status("/")).status, 401);
  assert.equal((await status("/api/status")).status, 401);
  assert.equal((await status("/?token=00")).status, 401);
  const admitted = await status(new URL(url).pathname + new URL(url).search);
  assert.equal(admitted.status, 303);
  const cookie = admitted.headers["set-cookie"][0].split(";")[0];
  const answered = await status("/", { headers: { cookie } });
  assert.equal(answered.status, 200);
  assert.match(
    answered.headers["content-security-policy"],
    /default-src 'none'/,
  );
  for (const headers of [
    { host: "evil.example" },
    { origin: "http://evil.example" },
  ]) {
    assert.equal(
      (await status("/api/status", { headers: { cookie, ...headers } })).status,
      403,
    );
  }
  assert.equal(
    (await status("/", { method: "POST", headers: { cookie } })).status,
    405,
  );
}

async function flowsAppearAndAreFiltered() {
  await until("#connection", /live/);
  await page.waitForFunction(() =>
    /\/docs/.test(document.querySelector(".body").innerText),
  );
  await shot("flows-light");
  await setFilter("verdict=DROPPED");
  await allRowsMatch(/dropped/);
  const button = page.getByRole("button", { name: "Denied" });
  await becomes(() => button.getAttribute("aria-pressed"), "true");
  await setFilter("nonsense=1");
  await until("#filter-state", /unexpected argument '--nonsense'/);
  await until(".body", /The filter is not valid/);
  // A part of a name is completed.
  await page.keyboard.press("/");
  await page.keyboard.press("Control+A");
  await page.keyboard.type("http-p");
  await page.getByRole("option", { name: "http-path=" }).waitFor();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await becomes(() => filter.inputValue(), "http-path=");
  await setFilter("--http-path ^/nowhere$");
  await until(".body", /No flow matches yet/);
  await shot("empty");
}

async function aDenialIsExplained() {
  await setFilter("http-path=^/secret$ verdict=DROPPED");
  await allRowsMatch(/\/secret/);
  const denied = rows().filter({ hasText: "http-request" }).first();
  await denied.click();
  await until("#why", /Denied by the policy in force now/);
  await until("#why", /Ingress of backend\/nginx/);
  await until("#why", /open, but the request is denied/);
  await until("#why", /backend\/allow-api-from-admin spec\.ingress\[0\]/);
  await until("#why", /path \/secret does not match \/docs/);
  await setFilter("!type=trace");
  await rows().filter({ hasText: "/docs" }).first().waitFor();
  await rows().filter({ hasText: "/secret" }).first().click();
  await until("#why", /Near misses/);
  await shot("explained-light");
  // L4: the first packet of a stranger.
  await setFilter("from-pod=other/stranger verdict=DROPPED");
  await allRowsMatch(/dropped[\s\S]*stranger/);
  await rows().first().click();
  await until(
    "#why",
    /because no rule of backend\/allow-api-from-admin allows it/,
  );
  await until(
    "#why",
    /needs namespace=user, but other\/stranger is in namespace other/,
  );
}

async function keysAreEnough() {
  await page.keyboard.press("Escape");
  await page.locator("#detail").waitFor({ state: "detached" });
  await page.keyboard.press("Escape");
  await until(".counts", /Following/);
  await setFilter("namespace=backend !from-pod=other/stranger");
  await rows().filter({ hasText: "/docs" }).first().waitFor();
  await page.getByRole("grid").focus();
  for (const key of ["ArrowDown", "ArrowDown", "ArrowUp", "ArrowDown"])
    await page.keyboard.press(key);
  const second = rows().nth(1);
  const grid = page.getByRole("grid");
  await becomes(() => second.getAttribute("aria-selected"), "true");
  const id = await second.getAttribute("id");
  await becomes(() => grid.getAttribute("aria-activedescendant"), id);
  await page.keyboard.press("Enter");
  await page.locator("#detail").waitFor();
  await page.keyboard.press("End");
  await page.waitForFunction(
    () =>
      document.querySelector(".row.selected")?.getAttribute("aria-rowindex") ===
      document.querySelector("[role=grid]").getAttribute("aria-rowcount"),
  );
  await page.keyboard.press("Escape");
  await page.keyboard.press("Escape");
  await until(".counts", /Following/);
  await page.keyboard.press("?");
  await page.getByRole("dialog").waitFor();
  await shot("help");
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
}

async function newFlowsAppear() {
  await setFilter("pod=user/ http-path=users");
  await until(".body", /No flow matches yet/);
  step("new flow");
  await rows().filter({ hasText: "/api/v1/users" }).first().waitFor();
}

async function theMapHasAllowedAndDeniedEdges() {
  await setFilter("");
  await page.keyboard.press("2");
  await page.getByRole("button", { name: "nginx in backend" }).waitFor();
  const node = page.getByRole("button", { name: "adminapp in admin" });
  await page.locator(".edge.allowed").first().waitFor({ state: "attached" });
  const denied = page.locator(".edge.denied").filter({ hasText: "80/TCP" });
  await denied.first().waitFor({ state: "attached" });
  const title = page.locator(".edge title").filter({
    hasText: "other/stranger to backend/nginx, 80/TCP, denied",
  });
  await title.first().waitFor({ state: "attached" });
  await shot("map-light");
  await node.focus();
  await page.keyboard.press("Enter");
  await becomes(() => node.getAttribute("aria-pressed"), "true");
  await page.locator(".edge.far").first().waitFor({ state: "attached" });
  await page.keyboard.press("Enter");
  await page.locator(".edge.far").first().waitFor({ state: "detached" });
  await page
    .locator(".connection.denied")
    .filter({ hasText: /stranger.*backend\/nginx/s })
    .click();
  await page.getByRole("button", { name: "Show these flows" }).click();
  await until("#connection", /live/);
  await rows().filter({ hasText: "stranger" }).first().waitFor();
  await becomes(
    () => filter.inputValue(),
    "from-pod=other/stranger to-pod=backend/nginx verdict=DROPPED",
  );
}

async function policiesOfAPodAreShown() {
  await page.keyboard.press("3");
  const list = page.getByRole("navigation", { name: "Pods and policies" });
  await list.getByRole("link", { name: /backend\/nginx/ }).click();
  await until(".chosen", /allow-api-from-admin[\s\S]*spec\.ingress\[1\]/);
  await until(".chosen", /only what rules allow/);
  await shot("policies-light");
  await list.getByRole("link", { name: /backend\/mistyped/ }).click();
  await until(".chosen", /rejected[\s\S]*policyTypes/);
}

async function whatIsNotReadyIsShown() {
  await page.keyboard.press("4");
  await until("#problems", /Endpoint backend\/store/);
  await until("#problems", /Rejected NetworkPolicy backend\/mistyped/);
  await until(".badge", /^[1-9]/);
  await shot("health-light");
}

const background = () =>
  page.evaluate(() => getComputedStyle(document.body).backgroundColor);

async function theThemeIsTheSystemsOrChosen() {
  const light = await background();
  await page.emulateMedia({ colorScheme: "dark" });
  const dark = await background();
  assert.notEqual(dark, light);
  await shot("health-dark");
  await page.keyboard.press("1");
  await setFilter("protocol=http");
  await allRowsMatch(/http-/);
  await rows().filter({ hasText: "/secret" }).first().click();
  await until("#why", /Near misses/);
  await shot("flows-dark");
  await setFilter("");
  await page.keyboard.press("2");
  await page.locator(".edge.denied").first().waitFor({ state: "attached" });
  await shot("map-dark");
  await page.keyboard.press("t");
  await becomes(background, light);
  await page.reload();
  await page.locator(".top").waitFor();
  await becomes(background, light, "the choice is stored");
  await page.locator("#theme").click();
  await becomes(background, dark);
}

async function whatStopsIsNamed() {
  await page.keyboard.press("1");
  await until("#connection", /live/);
  step("agent stops");
  await until("#connection", /disconnected/);
  await until("#filter-state", /trying again/);
  await page.keyboard.press("4");
  await until(".health", /can't be asked|can't be reached/);
  await shot("agent-stopped");
  // From here on, requests fail.
  assert.deepEqual(
    errors.filter((error) => !/50[0-9]|Failed to load resource/.test(error)),
    [],
  );
  step("page stops");
  await until(".health", /`podgate ui` can't be reached/);
}

async function agent() {
  await onlyThePageIsAnswered();
  await page.goto(url);
  assert.equal(
    new URL(page.url()).search,
    "",
    "the token is not in the history",
  );
  await flowsAppearAndAreFiltered();
  await aDenialIsExplained();
  await keysAreEnough();
  await newFlowsAppear();
  await theMapHasAllowedAndDeniedEdges();
  await policiesOfAPodAreShown();
  await whatIsNotReadyIsShown();
  await theThemeIsTheSystemsOrChosen();
  assert.deepEqual(errors, []);
  await whatStopsIsNamed();
  const others = requests.filter((request) => !request.startsWith(`${base}/`));
  assert.deepEqual(others, []);
}

/** Number of flows that the page says it has, by the part of its footer. */
const counts = async () => {
  const [shown, received] = (await text(page.locator("#stored"))).match(
    /[\d,]+/g,
  );
  return [shown, received].map((number) => Number(number.replaceAll(",", "")));
};

async function flood() {
  await page.goto(url);
  await page.waitForFunction(
    () => {
      const number = (id) => {
        const found =
          document
            .querySelector(id)
            ?.innerText.match(/[\d,]+/g)
            ?.at(-1) ?? "0";
        return Number(found.replaceAll(",", ""));
      };
      return number("#stored") + number("#skipped") >= 100_000;
    },
    undefined,
    { timeout: 80_000 },
  );
  await becomes(async () => (await counts())[0], 20_000);
  const inDocument = await rows().count();
  assert.ok(
    inDocument > 20 && inDocument < 60,
    `${inDocument} rows are in the document`,
  );
  await shot("flood");
  // Paused, it shows the same flows while new ones come.
  await page.getByRole("grid").focus();
  await page.keyboard.press("ArrowDown");
  const id = await page.locator(".row.selected").getAttribute("id");
  await until(".resume", /Paused, [\d,]{5,} newer/);
  assert.equal(await page.locator(".row.selected").getAttribute("id"), id);
  await page.keyboard.press("End");
  const selected = page.locator(".row.selected");
  await becomes(() => selected.getAttribute("aria-rowindex"), "20001");
  assert.ok((await rows().count()) < 60);
  await page.keyboard.press("Escape");
  await until(".counts", /Following/);
  await page.keyboard.press("2");
  await page.locator("g.node").first().waitFor();
  await becomes(() => page.locator("g.node").count(), 60);
  await page.locator(".edge.denied").first().waitFor({ state: "attached" });
  await shot("flood-map");
  await page.keyboard.press("1");
  await page.getByRole("grid").waitFor();
  const session = await browser.newCDPSession(page);
  await session.send("HeapProfiler.collectGarbage");
  const { usedSize } = await session.send("Runtime.getHeapUsage");
  // 20,000 flows of about 1 KiB, twice while paused.
  assert.ok(usedSize < 120 << 20, `${usedSize} bytes of heap`);
  console.log(`${usedSize} bytes of heap, ${inDocument} rows`);
}

try {
  await { agent, flood }[scenario]();
} catch (error) {
  await shot("failed");
  console.log(
    await page
      .locator("body")
      .innerText()
      .catch(() => ""),
  );
  throw error;
} finally {
  await browser.close();
}
