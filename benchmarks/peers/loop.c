/* The least that a broadcast costs: a frame made once, and one send() of it for each connection.
 *
 *   loop PORT
 *
 * Takes WebSocket connections on 127.0.0.1. What one of them says in a text frame goes to all others. It knows
 * as much of the protocol as its measurement needs: no fragments, no pings, messages under MOST bytes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 4096, SOCKETS = 16384, EVENTS = 256 };

struct connection {
    int open, upgraded;
    size_t size;
    unsigned char data[MOST];
};

static struct connection connections[SOCKETS];
static int highest;

static const char ANSWER[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void drop(int fd) {
    connections[fd].open = 0;
    close(fd);
}

static void publish(int sender, const unsigned char *payload, size_t length) {
    unsigned char frame[MOST + 4] = {0x81};
    size_t head = 2;
    if (length < 126) {
        frame[1] = length;
    } else {
        frame[1] = 126, frame[2] = length >> 8, frame[3] = length & 255;
        head = 4;
    }
    memcpy(frame + head, payload, length);
    for (int fd = 0; fd <= highest; fd++)
        if (connections[fd].upgraded && connections[fd].open && fd != sender)
            if (send(fd, frame, head + length, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)(head + length))
                drop(fd);
}

/* The bytes of a whole frame at the start of what has come, or 0. */
static size_t take(int fd, unsigned char *data, size_t size) {
    size_t length, head = 2;
    if (size < 2)
        return 0;
    length = data[1] & 127;
    if (length == 126 && size >= 4)
        length = data[2] << 8 | data[3], head = 4;
    else if (length >= 126)
        return 0;
    if (size < head + 4 + length)
        return 0;
    for (size_t at = 0; at < length; at++)
        data[head + 4 + at] ^= data[head + at % 4];
    if ((data[0] & 15) == 1)
        publish(fd, data + head + 4, length);
    return head + 4 + length;
}

static void hear(int fd) {
    struct connection *one = &connections[fd];
    ssize_t got = recv(fd, one->data + one->size, MOST - one->size, MSG_DONTWAIT);
    size_t used = 0, more;
    if (got <= 0) {
        drop(fd);
        return;
    }
    one->size += got;
    if (!one->upgraded) {
        unsigned char *end = memmem(one->data, one->size, "\r\n\r\n", 4);
        if (end == NULL)
            return;
        used = end + 4 - one->data;
        one->upgraded = 1;
        send(fd, ANSWER, sizeof ANSWER - 1, MSG_NOSIGNAL);
    }
    while ((more = take(fd, one->data + used, one->size - used)) > 0)
        used += more;
    one->size -= used;
    memmove(one->data, one->data + used, one->size);
}

int main(int count, char **arguments) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event events[EVENTS];
    int yes = 1, polled = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM, 0);
    if (count != 2)
        return 2;
    address.sin_port = htons(atoi(arguments[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 1024) < 0)
        fail("listen");
    struct epoll_event wanted = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(polled, EPOLL_CTL_ADD, listener, &wanted);
    for (;;) {
        int ready = epoll_wait(polled, events, EVENTS, -1);
        for (int at = 0; at < ready; at++) {
            int fd = events[at].data.fd;
            if (fd != listener) {
                if (connections[fd].open)
                    hear(fd);
                continue;
            }
            if ((fd = accept(listener, NULL, NULL)) < 0)
                fail("accept");
            if (fd >= SOCKETS)
                exit(1);
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
            memset(&connections[fd], 0, sizeof connections[fd]);
            connections[fd].open = 1;
            highest = fd > highest ? fd : highest;
            wanted.data.fd = fd;
            epoll_ctl(polled, EPOLL_CTL_ADD, fd, &wanted);
        }
    }
}
