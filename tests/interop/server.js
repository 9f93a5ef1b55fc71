// Node's HTTP server on the port of the first argument. It answers any path with what it saw,
// prints every request as `node METHOD PATH`, and echoes the bytes of a tunnel.

const http = require("node:http");

const server = http.createServer((request, response) => {
  request.on("data", () => {});
  request.on("end", () => {
    console.log(`node ${request.method} ${request.url}`);
    response.end(`saw ${request.method} ${request.url}\n`);
  });
});
server.on("connect", (request, socket, head) => {
  socket.on("error", () => {});
  if (request.url.startsWith("declined")) {
    socket.end("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
    return;
  }
  socket.write("HTTP/1.1 200 OK\r\n\r\n");
  socket.write(head);
  socket.pipe(socket);
});
server.listen(Number(process.argv[2]), "0.0.0.0");
