// Sends `METHOD PATH` requests to the server of the first argument by Node's fetch, and prints the
// status of each response. A POST has a body of 20,000 bytes.

async function main() {
  for (const request of process.argv.slice(3)) {
    const [method, path] = request.split(" ");
    const body = method === "POST" ? "x".repeat(20_000) : undefined;
    const response = await fetch(process.argv[2] + path, { method, body });
    console.log(response.status, (await response.text()).trim());
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
