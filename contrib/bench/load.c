/* load: so many clients, each of which asks, waits for its answer, and asks again; and beside them some that stay silent.
 *
 *   load KIND PORT CLIENTS SILENT WARM SECONDS NAME WANTED
 *
 * KIND is map, policy or http (a POST straight to a backend, to compare with); the server is on 127.0.0.1:PORT. NAME is
 * the map's name or the URL's path. Every question asks for a key of its own. An answer is right if it holds WANTED, or,
 * when WANTED is "=", the key. A silent client asks once and then only stays connected.
 *
 * Clients come one by one, each when the one before has its first answer or has waited a moment for it: this measures
 * servers, not how the kernel treats a backlog that overflows. They warm up for WARM seconds; then it prints "begin",
 * measures for SECONDS, and prints one line of JSON; load.py says what its members mean and does the same where there is
 * no compiler. A client whose connection is closed connects again at once, and the loss is counted. A question still
 * unanswered at the end counts for "slowest" with its age.
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

enum kind { MAP, POLICY, HTTP };
enum { ROOM = 16384, PATIENCE = 30, MOMENT = 20000000 };

struct client {
    int fd, silent, have;
    uint64_t asked_at;
    long questions, answers;
    char key[64];
    char in[ROOM];
};

static enum kind kind;
static int port, epoll;
static const char *name, *wanted;
static int measuring;
static long answers, wrong, lost, refused, silent_lost;
static uint32_t *microseconds;
static size_t samples, room;
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

static void remember(uint64_t nanoseconds) {
    if (samples == room) {
        room = room ? room * 2 : 1 << 16;
        microseconds = realloc(microseconds, room * sizeof *microseconds);
        if (!microseconds) fail("memory");
    }
    microseconds[samples++] = (uint32_t)(nanoseconds / 1000);
}

/* A server that is starting, or whose backlog is full, gets PATIENCE seconds. */
static void dial(struct client *c) {
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, "127.0.0.1", &where.sin_addr);
    uint64_t give_up = now() + PATIENCE * 1000000000ull;
    for (;;) {
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd < 0) fail("socket");
        if (connect(c->fd, (struct sockaddr *)&where, sizeof where) == 0) break;
        if (now() > give_up) fail("connect");
        refused++;
        close(c->fd);
        usleep(2000);
    }
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl");
    c->have = 0;
}

static void ask(struct client *c, int number) {
    char text[2048];
    int length;
    snprintf(c->key, sizeof c->key, "user%d.%ld@example.com", number, c->questions++);
    if (kind == MAP) {
        int payload = (int)(strlen(name) + 1 + strlen(c->key));
        length = snprintf(text, sizeof text, "%d:%s %s,", payload, name, c->key);
    } else if (kind == POLICY) {
        length = snprintf(text, sizeof text,
            "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=192.0.2.17\n"
            "client_name=mail.example.org\nclient_port=51234\nreverse_client_name=mail.example.org\n"
            "server_address=198.51.100.25\nserver_port=25\nhelo_name=mail.example.org\nsender=%s\n"
            "recipient=someone@example.net\nrecipient_count=0\nqueue_id=\ninstance=%x.%lx.1\nsize=12345\netrn_domain=\n"
            "stress=\nsasl_method=\nsasl_username=\nsasl_sender=\nccert_subject=\nccert_issuer=\nccert_fingerprint=\n"
            "ccert_pubkey_fingerprint=\nencryption_protocol=TLSv1.3\nencryption_cipher=TLS_AES_256_GCM_SHA384\n"
            "encryption_keysize=256\npolicy_context=\n\n", c->key, number, c->questions);
    } else {
        char body[128];
        int size = snprintf(body, sizeof body, "{\"key\": \"%s\"}", c->key);
        length = snprintf(text, sizeof text,
            "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
            name, port, size, body);
    }
    c->asked_at = now();
    if (send(c->fd, text, (size_t)length, MSG_NOSIGNAL) != length) c->asked_at = 1;
}

/* The bytes of the first whole answer in the client's buffer, 0 when it is not whole. */
static int whole(struct client *c) {
    c->in[c->have] = 0;
    if (kind == MAP) {
        char *colon = memchr(c->in, ':', (size_t)c->have);
        if (!colon) return 0;
        int size = (int)(colon - c->in) + 1 + atoi(c->in) + 1;
        return size <= c->have ? size : 0;
    }
    if (kind == POLICY) {
        char *end = strstr(c->in, "\n\n");
        return end ? (int)(end - c->in) + 2 : 0;
    }
    char *end = strstr(c->in, "\r\n\r\n"), *length = strcasestr(c->in, "\r\ncontent-length:");
    if (!end || !length || length > end) return 0;
    int size = (int)(end - c->in) + 4 + atoi(length + 17);
    return size <= c->have ? size : 0;
}

static int right(struct client *c, int size) {
    const char *what = strcmp(wanted, "=") ? wanted : c->key;
    return memmem(c->in, (size_t)size, what, strlen(what)) != NULL;
}

static void hear(struct client *c, int number) {
    ssize_t got = read(c->fd, c->in + c->have, ROOM - 1 - (size_t)c->have);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        close(c->fd);
        if (c->silent) silent_lost++;
        else lost++;
        dial(c);
        if (!c->silent) ask(c, number);
        return;
    }
    c->have += (int)got;
    int size = whole(c);
    if (!size) return;
    if (!right(c, size)) {
        if (!wrong++) snprintf(first_wrong, sizeof first_wrong, "%.*s", size, c->in);
    }
    if (measuring) {
        remember(now() - c->asked_at);
        answers++;
        c->answers++;
    }
    c->have = 0;
    if (c->silent) c->asked_at = 0;
    else ask(c, number);
}

static void turn(struct client *clients, int patience) {
    struct epoll_event events[256];
    int ready = epoll_wait(epoll, events, 256, patience);
    for (int i = 0; i < ready; i++) {
        struct client *c = events[i].data.ptr;
        hear(c, (int)(c - clients));
    }
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile(double part) {
    return samples ? microseconds[(size_t)((double)(samples - 1) * part)] / 1000.0 : 0.0;
}

int main(int argc, char **argv) {
    if (argc != 9) {
        fprintf(stderr, "usage: load map|policy|http PORT CLIENTS SILENT WARM SECONDS NAME WANTED\n");
        return 64;
    }
    kind = !strcmp(argv[1], "map") ? MAP : !strcmp(argv[1], "policy") ? POLICY : HTTP;
    port = atoi(argv[2]);
    int busy = atoi(argv[3]), silent = atoi(argv[4]);
    double warm = atof(argv[5]), seconds = atof(argv[6]);
    name = argv[7];
    wanted = argv[8];
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct client *clients = calloc((size_t)(busy + silent), sizeof *clients);
    if (!clients) fail("memory");
    uint64_t began = now();
    for (int i = busy; i < busy + silent; i++) {
        clients[i].silent = 1;
        dial(&clients[i]);
        ask(&clients[i], i);
        uint64_t give_up = now() + PATIENCE * 1000000000ull;
        while (clients[i].asked_at && now() < give_up) turn(clients, 100);
        if (clients[i].asked_at) {
            fprintf(stderr, "load: a silent client's one question was not answered\n");
            return 1;
        }
    }
    for (int i = 0; i < busy; i++) {
        dial(&clients[i]);
        ask(&clients[i], i);
        for (uint64_t end = now() + MOMENT; clients[i].questions < 2 && now() < end;) turn(clients, 1);
    }
    for (uint64_t end = now() + (uint64_t)(warm * 1e9); now() < end;) turn(clients, 1);
    double first = -1;
    measuring = 1;
    puts("begin");
    fflush(stdout);
    uint64_t start = now();
    for (uint64_t end = start + (uint64_t)(seconds * 1e9); now() < end;) {
        turn(clients, 1);
        if (first < 0 && answers) first = (double)(now() - began) / 1e6;
    }
    double took = (double)(now() - start) / 1e9;
    double slowest = 0;
    long least = busy ? clients[0].answers : 0, most = 0, served = 0;
    for (int i = 0; i < busy; i++) {
        if (clients[i].answers < least) least = clients[i].answers;
        if (clients[i].answers > most) most = clients[i].answers;
        served += clients[i].answers > 0;
        double age = (double)(now() - clients[i].asked_at) / 1e6;
        if (age > slowest) slowest = age;
    }
    if (samples) qsort(microseconds, samples, sizeof *microseconds, ascending);
    if (percentile(1.0) > slowest) slowest = percentile(1.0);
    for (char *c = first_wrong; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < 32 || (unsigned char)*c > 126) *c = '.';
    printf("{\"seconds\": %.3f, \"answers\": %ld, \"rate\": %.1f, \"p50\": %.3f, \"p99\": %.3f, \"slowest\": %.3f, "
           "\"first\": %.1f, \"wrong\": %ld, \"lost\": %ld, \"silent_lost\": %ld, \"refused\": %ld, "
           "\"served\": %ld, \"least\": %ld, \"most\": %ld, \"first_wrong\": \"%s\"}\n",
           took, answers, (double)answers / took, percentile(0.5), percentile(0.99), slowest, first,
           wrong, lost, silent_lost, refused, served, least, most, first_wrong);
    return 0;
}
