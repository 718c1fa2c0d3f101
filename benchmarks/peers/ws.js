// Broadcasts by `ws`: what one says goes to all others, in the way of its own documentation.
//
//   node ws.js PORT          send() of the message to each
//   node ws.js PORT once     the frame is made once, and written to each socket below the library's API
import { Sender, WebSocket, WebSocketServer } from "ws";

const [port, way] = process.argv.slice(2);
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port) });

function* others(sender) {
  for (const client of server.clients) {
    if (client !== sender && client.readyState === WebSocket.OPEN) yield client;
  }
}

function sendToEach(sender, data) {
  for (const client of others(sender)) client.send(data, { binary: false });
}

function writeToEach(sender, data) {
  const options = { fin: true, rsv1: false, opcode: 1, mask: false, readOnly: true };
  const frame = Buffer.concat(Sender.frame(data, options));
  for (const client of others(sender)) client._socket.write(frame);
}

const publish = way === "once" ? writeToEach : sendToEach;
server.on("connection", (socket) => {
  socket.on("message", (data) => publish(socket, data));
});
