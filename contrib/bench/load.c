/* load: a closed-loop load generator. Each client sends a request, waits for the reply and sends the next request.
 * Beside these busy clients there may be silent ones, which send one request and then only stay connected.
 *
 *   load PROTOCOL PORT BUSY SILENT WARM SECONDS NAME EXPECTED KEYS
 *
 * PROTOCOL is map, policy, sasl or http (a POST request directly to a backend, for comparison); the server listens on
 * 127.0.0.1:PORT. NAME is the name of the map, or the path of the URL. Each client counts its requests and puts
 * the number, modulo KEYS, into the key; KEYS 0 makes every key a new one. A reply is right if it contains EXPECTED, or
 * the key if EXPECTED is "=".
 *
 * Clients connect one by one, each when the one before has got its first reply or has waited for a moment, so that the
 * listener's backlog does not overflow. After WARM seconds of warming up the program prints "begin", measures for
 * SECONDS, and prints one line of JSON; load.py documents its members. A client whose connection is closed is
 * counted and reconnects at once. A request that is still unanswered at the end counts for "slowest" with its age.
 *
 * Build: cc -O2 -o load load.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum protocol { MAP, POLICY, SASL, HTTP };
enum { BUFFER_SIZE = 16384, CONNECT_SECONDS = 30 };
#define FIRST_REPLY_NANOSECONDS 20000000u /* the longest that a new client delays the next one */
#define RAMP_NANOSECONDS 4000000000u      /* about the longest that all of them together take to connect */

struct client {
    int fd, number, silent, greeting, length;
    uint64_t sent_at;
    long requests, replies;
    char key[64];
    char buffer[BUFFER_SIZE];
};

static enum protocol protocol;
static int port, epoll, measuring;
static long keys;
static const char *name, *expected;
static long replies, wrong, lost, refused, silent_lost;
static uint32_t *latencies; /* microseconds */
static size_t latency_count, latency_capacity;
static char first_wrong[120];

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void record_latency(uint64_t nanoseconds) {
    if (latency_count == latency_capacity) {
        latency_capacity = latency_capacity ? latency_capacity * 2 : 1 << 16;
        latencies = realloc(latencies, latency_capacity * sizeof *latencies);
        if (!latencies) fail("realloc");
    }
    latencies[latency_count++] = (uint32_t)(nanoseconds / 1000);
}

static void send_text(struct client *c, const char *text, int length) {
    c->sent_at = now();
    if (send(c->fd, text, (size_t)length, MSG_NOSIGNAL) != length) c->sent_at = 1;
}

/* The initial response of the PLAIN mechanism (RFC 4616), in base64: NUL, user name, NUL, password. */
static void encode_plain(char *out, const char *user) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char in[128] = {0};
    size_t size = (size_t)snprintf((char *)in + 1, sizeof in - 3, "%s%cpassword", user, 0) + 1;
    for (size_t i = 0; i < size; i += 3) {
        uint32_t bits = (uint32_t)in[i] << 16 | (uint32_t)in[i + 1] << 8 | in[i + 2];
        *out++ = digits[bits >> 18];
        *out++ = digits[bits >> 12 & 63];
        *out++ = i + 1 < size ? digits[bits >> 6 & 63] : '=';
        *out++ = i + 2 < size ? digits[bits & 63] : '=';
    }
    *out = 0;
}

static void send_request(struct client *c) {
    char text[2048];
    int length = 0;
    long request = c->requests++;
    snprintf(c->key, sizeof c->key, "user%d.%ld@example.com", c->number, keys ? request % keys : request);
    if (protocol == MAP) {
        int size = (int)(strlen(name) + 1 + strlen(c->key));
        length = snprintf(text, sizeof text, "%d:%s %s,", size, name, c->key);
    } else if (protocol == POLICY) {
        length = snprintf(text, sizeof text,
            "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=192.0.2.17\n"
            "client_name=mail.example.org\nclient_port=51234\nreverse_client_name=mail.example.org\n"
            "server_address=198.51.100.25\nserver_port=25\nhelo_name=mail.example.org\nsender=%s\n"
            "recipient=someone@example.net\nrecipient_count=0\nqueue_id=\ninstance=%x.%lx.1\nsize=12345\netrn_domain=\n"
            "stress=\nsasl_method=\nsasl_username=\nsasl_sender=\nccert_subject=\nccert_issuer=\nccert_fingerprint=\n"
            "ccert_pubkey_fingerprint=\nencryption_protocol=TLSv1.3\nencryption_cipher=TLS_AES_256_GCM_SHA384\n"
            "encryption_keysize=256\npolicy_context=\n\n", c->key, c->number, request);
    } else if (protocol == SASL) {
        char response[256];
        encode_plain(response, c->key);
        length = snprintf(text, sizeof text,
            "AUTH\t%ld\tPLAIN\tservice=smtp\tnologin\tlip=198.51.100.25\trip=192.0.2.17\tsecured\tresp=%s\n",
            request + 1, response);
    } else {
        char body[128];
        int size = snprintf(body, sizeof body, "{\"key\": \"%s\"}", c->key);
        length = snprintf(text, sizeof text,
            "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
            name, port, size, body);
    }
    send_text(c, text, length);
}

/* Connects and sends what comes first. A server that is starting, or whose backlog is full, gets CONNECT_SECONDS. */
static void connect_client(struct client *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    uint64_t deadline = now() + CONNECT_SECONDS * 1000000000ull;
    for (;;) {
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd < 0) fail("socket");
        if (connect(c->fd, (struct sockaddr *)&address, sizeof address) == 0) break;
        if (now() > deadline) fail("connect");
        refused++;
        close(c->fd);
        usleep(2000);
    }
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl");
    c->length = 0;
    c->greeting = protocol == SASL;
    if (c->greeting) {
        char text[64];
        send_text(c, text, snprintf(text, sizeof text, "VERSION\t1\t1\nCPID\t%d\n", c->number + 1));
    } else {
        send_request(c);
    }
}

/* The length of the first complete reply in the client's buffer; 0 if it is not complete. */
static int reply_length(struct client *c) {
    c->buffer[c->length] = 0;
    if (protocol == MAP) {
        char *colon = memchr(c->buffer, ':', (size_t)c->length);
        if (!colon) return 0;
        int size = (int)(colon - c->buffer) + 1 + atoi(c->buffer) + 1;
        return size <= c->length ? size : 0;
    }
    if (protocol == POLICY || protocol == SASL) {
        const char *terminator = protocol == POLICY ? "\n\n" : c->greeting ? "DONE\n" : "\n";
        char *end = strstr(c->buffer, terminator);
        return end ? (int)(end - c->buffer) + (int)strlen(terminator) : 0;
    }
    char *end = strstr(c->buffer, "\r\n\r\n"), *header = strcasestr(c->buffer, "\r\ncontent-length:");
    if (!end || !header || header > end) return 0;
    int size = (int)(end - c->buffer) + 4 + atoi(header + 17);
    return size <= c->length ? size : 0;
}

static int is_expected(struct client *c, int size) {
    const char *text = strcmp(expected, "=") ? expected : c->key;
    return memmem(c->buffer, (size_t)size, text, strlen(text)) != NULL;
}

static void receive(struct client *c) {
    ssize_t size = read(c->fd, c->buffer + c->length, BUFFER_SIZE - 1 - (size_t)c->length);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) {
        close(c->fd);
        if (c->silent) silent_lost++;
        else lost++;
        connect_client(c);
        return;
    }
    c->length += (int)size;
    int length = reply_length(c);
    if (!length) return;
    if (c->greeting) {
        c->greeting = c->length = 0;
        send_request(c);
        return;
    }
    if (!is_expected(c, length)) {
        if (!wrong++) snprintf(first_wrong, sizeof first_wrong, "%.*s", length, c->buffer);
    }
    if (measuring) {
        record_latency(now() - c->sent_at);
        replies++;
        c->replies++;
    }
    c->length = 0;
    if (c->silent) c->sent_at = 0;
    else send_request(c);
}

static void poll_once(int milliseconds) {
    struct epoll_event events[256];
    int ready = epoll_wait(epoll, events, 256, milliseconds);
    for (int i = 0; i < ready; i++) receive(events[i].data.ptr);
}

static void run_until(uint64_t end) {
    while (now() < end) poll_once(1);
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile(double part) {
    return latency_count ? latencies[(size_t)((double)(latency_count - 1) * part)] / 1000.0 : 0.0;
}

int main(int argc, char **argv) {
    if (argc != 10) {
        fprintf(stderr, "usage: load map|policy|sasl|http PORT BUSY SILENT WARM SECONDS NAME EXPECTED KEYS\n");
        return 64;
    }
    protocol = !strcmp(argv[1], "map") ? MAP : !strcmp(argv[1], "policy") ? POLICY : !strcmp(argv[1], "sasl") ? SASL : HTTP;
    port = atoi(argv[2]);
    int busy = atoi(argv[3]), silent = atoi(argv[4]);
    double warm = atof(argv[5]), seconds = atof(argv[6]);
    name = argv[7];
    expected = argv[8];
    keys = atol(argv[9]);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct client *clients = calloc((size_t)(busy + silent), sizeof *clients);
    if (!clients) fail("calloc");
    for (int i = 0; i < busy + silent; i++) clients[i].number = i;
    for (int i = busy; i < busy + silent; i++) {
        clients[i].silent = 1;
        connect_client(&clients[i]);
        uint64_t deadline = now() + CONNECT_SECONDS * 1000000000ull;
        while (clients[i].sent_at && now() < deadline) poll_once(100);
        if (clients[i].sent_at) {
            fprintf(stderr, "load: the one request of a silent client was not answered\n");
            return 1;
        }
    }
    uint64_t pause = busy ? RAMP_NANOSECONDS / (uint64_t)busy : 0;
    if (pause > FIRST_REPLY_NANOSECONDS) pause = FIRST_REPLY_NANOSECONDS;
    for (int i = 0; i < busy; i++) {
        connect_client(&clients[i]);
        for (uint64_t end = now() + pause; clients[i].requests < 2 && now() < end;) poll_once(1);
    }
    run_until(now() + (uint64_t)(warm * 1e9));
    measuring = 1;
    puts("begin");
    fflush(stdout);
    uint64_t start = now();
    run_until(start + (uint64_t)(seconds * 1e9));
    uint64_t end = now();
    double elapsed = (double)(end - start) / 1e9, slowest = 0;
    long least = busy ? clients[0].replies : 0, most = 0, served = 0;
    for (int i = 0; i < busy; i++) {
        if (clients[i].replies < least) least = clients[i].replies;
        if (clients[i].replies > most) most = clients[i].replies;
        served += clients[i].replies > 0;
        double age = (double)(end - clients[i].sent_at) / 1e6;
        if (age > slowest) slowest = age;
    }
    if (latency_count) qsort(latencies, latency_count, sizeof *latencies, ascending);
    if (percentile(1.0) > slowest) slowest = percentile(1.0);
    for (char *c = first_wrong; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < 32 || (unsigned char)*c > 126) *c = '.';
    printf("{\"seconds\": %.3f, \"replies\": %ld, \"rate\": %.1f, \"p50\": %.3f, \"p99\": %.3f, \"slowest\": %.3f, "
           "\"wrong\": %ld, \"lost\": %ld, \"silent_lost\": %ld, \"refused\": %ld, \"served\": %ld, "
           "\"least\": %ld, \"most\": %ld, \"first_wrong\": \"%s\"}\n",
           elapsed, replies, (double)replies / elapsed, percentile(0.5), percentile(0.99), slowest, wrong, lost,
           silent_lost, refused, served, least, most, first_wrong);
    return 0;
}
