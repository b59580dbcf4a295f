/* A machine whose clock is wrong: LD_PRELOAD this and say by how much in the environment.
 *
 * SEEDVR2_TEST_CLOCK   seconds by which the clock of the day is ahead; negative: behind
 *
 * Only questions for the time of day are answered wrongly. Clocks that measure how long something
 * takes are right, as they are on such a machine.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long ahead;

__attribute__((constructor)) static void begin(void) {
    const char *seconds = getenv("SEEDVR2_TEST_CLOCK");
    ahead = seconds ? atol(seconds) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *answer) {
    static int (*real)(clockid_t, struct timespec *);
    int failed;
    if (!real)
        real = dlsym(RTLD_NEXT, "clock_gettime");
    failed = real(clock, answer);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        answer->tv_sec += ahead;
    return failed;
}

int gettimeofday(struct timeval *restrict answer, void *restrict zone) {
    static int (*real)(struct timeval *, void *);
    int failed;
    if (!real)
        real = dlsym(RTLD_NEXT, "gettimeofday");
    failed = real(answer, zone);
    if (!failed)
        answer->tv_sec += ahead;
    return failed;
}

time_t time(time_t *answer) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (answer)
        *answer = now.tv_sec;
    return now.tv_sec;
}
