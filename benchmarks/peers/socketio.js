// Broadcasts by Socket.IO: all are in one room, and what one says goes to all others there.
//
//   node socketio.js PORT
import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer().listen(Number(process.argv[2]), "127.0.0.1");
const server = new Server(http, { transports: ["websocket"], serveClient: false });

server.on("connection", (socket) => {
  socket.join("room");
  socket.on("message", (payload) => socket.to("room").emit("message", payload));
});
