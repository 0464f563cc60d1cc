// A bad line between two tun devices: rate, delay, loss, a queue that drops its tail, and cuts (SIGUSR1 cuts, SIGUSR2 mends). For kernels
// without netem. Linux, root: bad-line DEV_A DEV_B RATE_MBIT DELAY_MS LOSS_PERCENT QUEUE_MS
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t cut = 0;
static void on_signal(int number) { cut = number == SIGUSR1; }

static int open_tun(const char* name) {
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
  struct ifreq request;
  memset(&request, 0, sizeof request);
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) {
    perror(name);
    exit(1);
  }
  return fd;
}

static long long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

#define MOST 16384
struct packet {
  long long at;
  int length;
  unsigned char* data;
};
struct way {
  struct packet queue[MOST];
  int head, tail;
  long long free_at;
} ways[2];

int main(int count, char** given) {
  if (count != 7) return fprintf(stderr, "bad-line DEV_A DEV_B RATE_MBIT DELAY_MS LOSS_PERCENT QUEUE_MS\n"), 1;
  const double rate = atof(given[3]) * 1e6, loss = atof(given[5]) / 100;
  const long long delay = atof(given[4]) * 1e6, longest = atof(given[6]) * 1e6;
  const int fd[2] = {open_tun(given[1]), open_tun(given[2])};
  signal(SIGUSR1, on_signal);
  signal(SIGUSR2, on_signal);
  static unsigned char bytes[2048];
  printf("up\n");
  fflush(stdout);
  for (;;) {
    long long t = now(), next = t + 50000000LL;
    for (int d = 0; d < 2; d++) {
      struct way* w = &ways[d];
      while (w->head != w->tail && w->queue[w->head].at <= t) {
        struct packet* p = &w->queue[w->head];
        if (!cut && write(fd[1 - d], p->data, p->length) < 0) cut = cut;
        free(p->data);
        w->head = (w->head + 1) % MOST;
      }
      if (w->head != w->tail && w->queue[w->head].at < next) next = w->queue[w->head].at;
    }
    struct pollfd polled[2] = {{fd[0], POLLIN, 0}, {fd[1], POLLIN, 0}};
    long long wait = next - now();
    if (wait < 0) wait = 0;
    struct timespec pause = {wait / 1000000000LL, wait % 1000000000LL};
    ppoll(polled, 2, &pause, NULL);
    for (int d = 0; d < 2; d++) {
      for (int k = 0; k < 64; k++) {
        const int length = read(fd[d], bytes, sizeof bytes);
        if (length <= 0) break;
        struct way* w = &ways[d];
        t = now();
        if (cut || drand48() < loss) continue;
        if (w->free_at < t) w->free_at = t;
        if (w->free_at - t > longest || (w->tail + 1) % MOST == w->head) continue;
        w->free_at += (long long)(length * 8 / rate * 1e9);
        struct packet* p = &w->queue[w->tail];
        p->at = w->free_at + delay;
        p->length = length;
        p->data = malloc(length);
        memcpy(p->data, bytes, length);
        w->tail = (w->tail + 1) % MOST;
      }
    }
  }
}
